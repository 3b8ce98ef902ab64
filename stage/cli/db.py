"""`stage db`: see and apply the migrations of a stage's database."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import click

from stage.cli.failure import NEGATIVE
from stage.cli.options import config_of, configured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stage.store.migrate import Migration, MigrationStatus

NEEDED = ("database",)


class Migrations(Protocol):
    """What `bootstrap.open_migrations` opens: the migrations of one database, ours and theirs."""

    def status(self) -> Sequence[MigrationStatus]:
        """Every migration with its state."""
        ...

    def sql(self) -> str:
        """The text of all that are pending."""
        ...

    def upgrade(self) -> Sequence[Migration]:
        """Apply what is pending; what was applied."""
        ...


@click.group()
def db() -> None:
    """The database of a stage: its migrations."""


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def upgrade(target: str, **given: Any) -> None:
    """Apply what is pending, each file in a transaction of its own."""
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
    """List the migrations. Exit status 1 when one is pending, changed or unknown."""
    from stage.cli.draw import table
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
    return 0 if all(line.state.value == "applied" for line in lines) else NEGATIVE


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def sql(target: str, **given: Any) -> None:
    """Print the SQL that is pending, for those who apply it by hand."""
    with _open(target, given) as migrations:
        text = migrations.sql()
    click.echo(text, nl=False)


def _open(target: str, given: dict[str, Any]) -> AbstractContextManager[Migrations]:
    config = config_of(given)

    from stage.cli.target import find_stage

    stage = find_stage(target)

    from stage import bootstrap

    return bootstrap.open_migrations(stage, config)
