"""`stage check`: all that can be known of a stage without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import NEGATIVE, one_line
from stage.cli.options import config_of, configured
from stage.cli.remote import output_option
from stage.core.errors import ConfigurationError, DeclarationError

if TYPE_CHECKING:
    from stage.bootstrap.check import Checked


@click.command(short_help="Say all that can be known of a stage without running it.")
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@output_option
@configured()
def check(target: str, output: str, **given: Any) -> int:
    """Judge a stage without running it: its plan, its functions, settings and migrations.

    Its settings are judged where a peer is configured, and its database where one is named, which
    is only read. Exit status 1 when something was found that would stop it, or a saga of it.
    """
    checked = _checked(target, given)
    if output == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(checked), indent=2).decode())
    else:
        click.echo(_draw(checked))
    return 0 if checked.sound else NEGATIVE


def _checked(target: str, given: dict[str, Any]) -> Checked:
    from stage.bootstrap.check import About, check_stage, refused
    from stage.cli.target import find_stage

    try:
        config = config_of(given)
    except ConfigurationError as error:
        return refused(target, About.SETTINGS, error)
    try:
        stage = find_stage(target)
    except DeclarationError as error:
        return refused(target, About.PLAN, error)
    return check_stage(stage, config)


def _draw(checked: Checked) -> str:
    """The steps as a table, then a line for each finding."""
    from stage.cli.draw import table

    lines = [f"stage {one_line(checked.stage)}, version {checked.version}"]
    if checked.steps:
        head = ("STEP", "KIND", "TO", "IF ITS ANSWER IS LOST", "UNDONE BY")
        rows = [
            (
                f"{step.name} (pivot)" if step.pivot else step.name,
                *(step.kind, step.to or "-", step.doubt or "-", step.compensation),
            )
            for step in checked.steps
        ]
        lines += [table(head, rows), ""]
    if checked.statements:
        lines.append(f"prepared on the tables of the migrations: {checked.statements} statements")
    lines += [
        f"{finding.level}: {finding.about}: {one_line(finding.text)}"
        for finding in checked.findings
    ]
    if checked.sound:
        lines.append("nothing was found that would stop it")
    return "\n".join(lines)
