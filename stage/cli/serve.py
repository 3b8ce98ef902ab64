"""`stage serve`: serve a stage until a signal ends it."""

from __future__ import annotations

from typing import Any

import click

from stage.cli.options import config_of, configured


@click.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured()
def serve(target: str, **given: Any) -> None:
    """Serve a stage over HTTP until SIGTERM or SIGINT.

    MODULE is found in the working directory too. Without ATTRIBUTE it is the stage of the module.
    Every option may stand in the environment and in stage.toml as well; options hold over the
    environment, the environment over the file.
    """
    from stage.telemetry.streams import open_streams

    open_streams()  # first: a logger of the author's module keeps the streams that it finds
    config = config_of(given)

    from stage.cli.target import find_stage

    stage = find_stage(target)

    from stage.bootstrap import serve as run

    run(stage, config)
