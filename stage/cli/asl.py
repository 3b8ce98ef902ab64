"""`stage asl`: write the state machines with which AWS Step Functions drives a chain of stages."""

from __future__ import annotations

import click

from stage.cli.failure import Failure


@click.command()
@click.option("--stages", required=True, metavar="A,B,…", help="The stages, in order.")
@click.option(
    "--name", default="step_functions", show_default=True, help="What the stages call it."
)
@click.option("--url", "urls", multiple=True, metavar="STAGE=URL", help="Of a stage; repeatable.")
@click.option(
    "--connection", "connections", multiple=True, metavar="STAGE=ARN", help="Repeatable as well."
)
@click.option(
    "--activity",
    "activities",
    multiple=True,
    metavar="STAGE[=ARN]",
    help="A stage that fetches its tasks, by `stage serve --sfn-activity`; repeatable.",
)
@click.option(
    "--budget-seconds",
    type=click.IntRange(1, 86_400),
    default=3600,
    show_default=True,
    help="For the way forward of a saga without a deadline.",
)
@click.option("--backward", is_flag=True, help="The document that only compensates a saga.")
def asl(
    stages: str,
    name: str,
    urls: tuple[str, ...],
    connections: tuple[str, ...],
    activities: tuple[str, ...],
    budget_seconds: int,
    backward: bool,
) -> None:
    """Print the state machine of AWS for a chain.

    It is in Amazon States Language, and calls the stages by HTTP tasks, or by those of an
    --activity. Where --url, --connection or an ARN is missing for a stage, there is a substitution
    of CloudFormation, such as ${PaymentUrl}, ${PaymentConnection} or ${PaymentActivity}.
    """
    import json

    from stage.orchestrators.step_functions import document
    from stage.wire.envelope import STAGE_NAME_RE

    names = stages.split(",")
    for each in (*names, name):
        if not STAGE_NAME_RE.fullmatch(each):
            raise Failure(f"{each!r} is no name of a stage: it is {STAGE_NAME_RE.pattern}")
    if len({*names, name}) <= len(names):
        raise Failure("each stage stands once in --stages, and --name is none of them")
    chain = document.Chain(
        stages=names,
        name=name,
        urls=_by_stage("--url", urls, names),
        connections=_by_stage("--connection", connections, names),
        activities=_activities(activities, names, name),
        budget_seconds=budget_seconds,
    )
    made = document.backward(chain) if backward else document.forward(chain)
    click.echo(json.dumps(made, indent=2))


def _activities(given: tuple[str, ...], names: list[str], name: str) -> dict[str, str]:
    """The ARN by stage, empty where there is none."""
    from stage.inbound.activity import CALLER

    if given and name != CALLER:
        raise Failure(
            f"a stage that fetches its tasks calls the orchestrator {CALLER}: give no --name"
        )
    bare = {stage: "" for stage in given if stage in names}
    with_arn = tuple(each for each in given if each not in bare)
    return {**bare, **_by_stage("--activity", with_arn, names)}


def _by_stage(option: str, given: tuple[str, ...], names: list[str]) -> dict[str, str]:
    found = {}
    for each in given:
        stage, _, value = each.partition("=")
        if stage not in names or not value:
            raise Failure(f"{option} {each}: give STAGE=VALUE, of one of {', '.join(names)}")
        found[stage] = value
    return found
