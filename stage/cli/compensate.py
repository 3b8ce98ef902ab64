"""`stage compensate`: ask a stage to undo a saga, as an operator."""

from __future__ import annotations

import click

from stage.cli.failure import NEGATIVE, one_line
from stage.cli.remote import url_option

OPERATOR = "operator"


@click.command()
@click.argument("saga_id", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is stored and told on.")
@url_option
def compensate(saga_id: str, reason: str, url: str) -> int:
    """Undo a saga here and downstream.

    A saga that was never seen is refused from then on. Exit status 0 when nothing of it stands, or
    when the stage has taken the request over and still works on it.
    """
    from stage.cli.remote import exchange, refuse
    from stage.cli.sagas import quoted_id
    from stage.wire import headers as h
    from stage.wire.problem import decode_problem
    from stage.wire.replies import CompensateReply, encode_compensate, kind_of_compensate_reply

    answer = exchange(
        "POST",
        url,
        f"/sagas/{quoted_id(saga_id)}/compensate",
        body=encode_compensate(OPERATOR, reason),
        headers={"Content-Type": h.CONTENT_JSON},
    )
    match kind_of_compensate_reply(answer.status):
        case CompensateReply.COMPENSATED:
            click.echo(f"{answer.status} compensated: nothing of saga {saga_id} stands")
            return 0
        case CompensateReply.ACCEPTED:
            click.echo(f"{answer.status} accepted: see `stage show {saga_id} --url {url}`")
            return 0
        case CompensateReply.CANNOT:
            problem = decode_problem(answer.body)
            stands = problem.stands if problem is not None and problem.stands else ()
            said = problem.detail or problem.title if problem is not None else "it cannot"
            click.echo(f"{answer.status} cannot: {one_line(said)}")
            if stands:
                click.echo("what stands: " + one_line(", ".join(stands)))
            return NEGATIVE
        case _:
            refuse(url, answer)
