"""`stage db`: see and apply the migrations of a stage's database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import NEGATIVE, Failure
from stage.cli.options import config_of, configured

if TYPE_CHECKING:
    from stage.bootstrap import Migrations

NEEDED = ("database",)


@click.group()
def db() -> None:
    """The database of a stage: its migrations."""


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def upgrade(target: str, **given: Any) -> None:
    """Apply what is pending, each file in a transaction of its own.

    Expansions may be applied while the stage is up; for any other the stage has to be stopped.
    """
    with _open(target, given) as migrations:
        applied = migrations.upgrade()
    for migration in applied:
        click.echo(f"applied {migration.owner}/{migration.name}")
    if not applied:
        click.echo("nothing is pending")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def status(target: str, **given: Any) -> int:
    """List the migrations. Exit status 1 when one is pending, changed or unknown.

    One that is ahead is an expansion of a later version, on which this one runs.
    """
    from stage.cli.draw import table
    from stage.store.migrate import MigrationState
    from stage.wire.envelope import format_instant

    with _open(target, given) as migrations:
        lines = migrations.status()
    rows = [
        (
            f"{line.owner}/{line.name}",
            line.state.value,
            "" if line.applied_at is None else format_instant(line.applied_at),
        )
        for line in lines
    ]
    click.echo(table(("MIGRATION", "STATE", "APPLIED AT"), rows))
    fits = (MigrationState.APPLIED, MigrationState.AHEAD)
    return 0 if all(line.state in fits for line in lines) else NEGATIVE


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def sql(target: str, **given: Any) -> None:
    """Print the SQL that is pending, to be applied by hand."""
    with _open(target, given) as migrations:
        text = migrations.sql()
    click.echo(text, nl=False)


@contextmanager
def _open(target: str, given: dict[str, Any]) -> Iterator[Migrations]:
    """The migrations of the database. Raises Failure for an error of SQLite."""
    config = config_of(given)

    from stage.cli.target import find_stage

    stage = find_stage(target)

    import sqlite3

    from stage.bootstrap import open_migrations

    try:
        with open_migrations(stage, config) as migrations:
            yield migrations
    except sqlite3.Error as error:
        raise Failure(
            f"the database {config.database} cannot be used: {error}:"
            " give the path of a SQLite file that may be written to"
        ) from error
