"""`stage temporal`: run what drives a chain of stages by workflows of Temporal."""

from __future__ import annotations

from pathlib import Path

import click

from stage.cli.failure import Failure


@click.group()
def temporal() -> None:
    """A chain of stages driven by Temporal."""


@temporal.command()
@click.argument("config", metavar="FILE", type=click.Path(path_type=Path))
def worker(config: Path) -> None:
    """Run the workflows and activities of the chain that FILE names, until SIGTERM.

    FILE is TOML: address, namespace and task_queue of Temporal, and a table [stages.NAME] with url
    and token_file for each stage.
    """
    import asyncio

    try:
        from stage.orchestrators.temporal.config import load
        from stage.orchestrators.temporal.worker import serve
    except ModuleNotFoundError as error:
        raise Failure(f"{error.name} is missing: install saga-stage[temporal]") from None
    try:
        asyncio.run(serve(load(config)))
    except RuntimeError as error:  # what the SDK raises for a server that is away
        raise Failure(f"Temporal does not answer: {error}") from None
