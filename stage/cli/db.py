"""`stage db`: make a stage's database; see and apply its migrations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import NEGATIVE, Failure
from stage.cli.options import config_of, configured

if TYPE_CHECKING:
    from stage.bootstrap import Database
    from stage.bootstrap.server_database import ServerDatabase

NEEDED = ("database",)


@click.group()
def db() -> None:
    """The database of a stage: its file and its migrations."""


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured((*NEEDED, "workers"))
def init(target: str, **given: Any) -> None:
    """Make the database, with --workers a file for each. It must not be there already."""
    config = config_of(given)
    if config.workers > 1 and config.database.startswith("sqlite:"):
        from stage.bootstrap.workers import make_files
        from stage.cli.target import find_stage

        for path in make_files(find_stage(target), config):
            click.echo(f"made {path}")
        return
    with _open(target, given, make=True) as database:
        identity = database.identity
        assert identity is not None
        click.echo(f"made {database.path}: database {identity.id} of stage {identity.stage}")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def upgrade(target: str, **given: Any) -> None:
    """Apply what is pending, each file in a transaction of its own.

    Expansions may be applied while the stage is up; for any other the stage has to be stopped.
    """
    with _open(target, given) as database:
        applied = database.upgrade()
    for migration in applied:
        click.echo(f"applied {migration.owner}/{migration.name}")
    if not applied:
        click.echo("nothing is pending")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def status(target: str, **given: Any) -> int:
    """List the migrations. Exit status 1 when one is pending, changed or unknown.

    A migration that is ahead is an expansion of a later version, on which this one runs.
    """
    from stage.cli.draw import table
    from stage.store.migrate import MigrationState
    from stage.wire.envelope import format_instant

    with _open(target, given) as database:
        lines, identity, path = database.status(), database.identity, database.path
    rows = [
        (
            f"{line.owner}/{line.name}",
            line.state.value,
            "" if line.applied_at is None else format_instant(line.applied_at),
        )
        for line in lines
    ]
    click.echo(f"database {path}")
    if identity is not None:
        click.echo(
            f"id {identity.id}, stage {identity.stage}, made {format_instant(identity.born_at)},"
            f" generation {identity.generation}, written by {identity.release or 'no release'}"
        )
    click.echo(table(("MIGRATION", "STATE", "APPLIED AT"), rows))
    fits = (MigrationState.APPLIED, MigrationState.AHEAD)
    return 0 if all(line.state in fits for line in lines) else NEGATIVE


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def sql(target: str, **given: Any) -> None:
    """Print the SQL that is pending, to be applied by hand."""
    with _open(target, given) as database:
        text = database.sql()
    click.echo(text, nl=False)


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
@click.option("--as-of", required=True, metavar="TIME", help="When the backup was made, RFC 3339.")
def restored(target: str, as_of: str, **given: Any) -> None:
    """Accept a backup that was put back. Unknown sagas are answered 503 until `released`."""
    from stage.wire.envelope import parse_instant

    try:
        instant = parse_instant(as_of)
    except ValueError as error:
        raise Failure(f"--as-of is {error}: give for example 2026-11-23T02:30:00Z") from error
    with _open(target, given) as database:
        identity = database.restored(instant)
        click.echo(
            f"generation {identity.generation} of {database.path} begins with the backup of"
            f" {as_of}. Until `stage reconcile` and `stage db released` sagas that are not in"
            " it are answered 503"
        )


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured((*NEEDED, "upstreams", "downstreams"))
@click.option("--reason", required=True, help="Why nothing is lost any more.")
@click.option("--no-neighbours", is_flag=True, help="This stage has none to ask.")
def released(target: str, reason: str, no_neighbours: bool, **given: Any) -> None:
    """Vouch for a restored database: a saga that is not in it was never here."""
    config = config_of(given)
    neighbours = (*config.upstreams, *config.downstreams)
    with _open(target, given) as database:
        identity = database.identity
        waits = identity is not None and identity.awaits_release
        if waits and not neighbours and not no_neighbours:
            raise Failure(
                "no neighbour is configured, so nobody knows who had to be asked: give every"
                " --upstream and --downstream of the stage, or --no-neighbours where it has none"
            )
        for saga_id, requested_by, why in database.lost_sagas():
            click.echo(f"lost: {saga_id}, asked for by {requested_by}: {why}")
        identity = database.released(neighbours)
        click.echo(f"generation {identity.generation} of {database.path} is released: {reason}")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured((*NEEDED, "payload_key_file"))
def reencrypt(target: str, **given: Any) -> None:
    """Bring all contents under the first key of payload_key_file, also while the stage is up.

    The stage has to run with that file already. It says which keys may be taken out of it then.
    """
    key_file = config_of(given).payload_key_file
    if not key_file:
        raise Failure("no payload_key_file is given: `stage keys payload` writes one")
    with _open(target, given) as database:
        done = database.reencrypt(key_file)
        click.echo(f"{done.renewed} encrypted anew; all of {database.path} is under {done.key}")
    for key in done.ended:
        click.echo(f"nothing is left {'in the clear' if key == 'plain' else f'under {key}'}")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def verify(target: str, **given: Any) -> int:
    """Look through the whole database, also while the stage is up. Exit status 1 when it is wrong.

    Every page and index is read, and each journal is compared with its row.
    """
    with _open(target, given) as database:
        found, path = database.wrongs(), database.path
    for each in found:
        click.echo(each)
    if found:
        click.echo(f"database {path} is damaged: keep the file, and put the last backup back")
        return NEGATIVE
    click.echo(f"database {path} is whole")
    return 0


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@configured(NEEDED)
def backup(target: str, file: Path, **given: Any) -> None:
    """Copy the database to a new FILE, also while the stage is up, and check the copy."""
    from stage.wire.envelope import format_instant

    with _open(target, given) as database:
        made, others = database.back_up(file), database.others
    as_of = format_instant(made.as_of)
    click.echo(
        f"backed up {made.sagas} sagas with {made.entries} entries to {made.path}"
        f" ({made.size} bytes), checked. Put back, it is accepted with"
        f" `stage db restored --as-of {as_of}`"
    )
    if others:
        click.echo(f"the list of the files of all workers is in {made.path}.workers")


@contextmanager
def _open(
    target: str, given: dict[str, Any], *, make: bool = False
) -> Iterator[Database | ServerDatabase]:
    """The database of the stage. Raises Failure for an error of SQLite."""
    config = config_of(given)

    from stage.cli.target import find_stage

    stage = find_stage(target)

    import sqlite3

    from stage.bootstrap import open_database
    from stage.store.sqlite.errors import unavailable

    try:
        with open_database(stage, config, make=make) as database:
            _tell_others(database)
            yield database
    except sqlite3.Error as error:
        raise Failure(
            f"the database {config.database} cannot be used: {unavailable(error) or error}"
        ) from error


def _tell_others(database: Database | ServerDatabase) -> None:
    """Nobody shall think that a command was for all files where it is for the first one."""
    if others := database.others:
        names = ", ".join(str(each) for each in others)
        click.echo(
            f"{database.path} is that of worker 0 alone; the stage has also {names}", err=True
        )
