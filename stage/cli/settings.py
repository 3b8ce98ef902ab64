"""`stage config` and `stage openapi`: the settings in force, and the protocol."""

from __future__ import annotations

from typing import Any

import click

from stage.cli.options import config_of, configured


@click.command()
@configured()
def config(**given: Any) -> None:
    """Print every effective value and where it comes from."""
    from stage.cli.draw import table
    from stage.config import describe

    found = config_of(given)
    click.echo(table(("SETTING", "VALUE", "ORIGIN"), describe(found)))
    for line in found.ignored:
        click.echo(f"stage: {line}", err=True)


@click.command(short_help="Print the OpenAPI document.")
@click.argument("target", metavar="[MODULE:ATTRIBUTE]", required=False)
def openapi(target: str | None) -> None:
    """Print the OpenAPI 3.1 document of the protocol, or of a stage when one is named."""
    descriptor = None
    if target is not None:
        from stage.cli.target import find_stage
        from stage.config import Config
        from stage.wire.descriptor import Descriptor

        stage = find_stage(target)
        plan = stage.bind().plan
        descriptor = Descriptor(
            name=stage.name,
            accepts=stage.accepts.schema(),
            adds={} if stage.adds is None else stage.adds.schema(),
            compensation_window_seconds=Config().compensation_window_seconds,
            pivot=None if plan.pivot is None else plan.steps[plan.pivot].name,
        )
    import msgspec

    from stage.inbound.openapi import document

    body = msgspec.json.encode(document(descriptor))
    click.echo(msgspec.json.format(body, indent=2).decode())
