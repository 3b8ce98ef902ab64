"""`stage db`: make a stage's database; see and apply its migrations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import NEGATIVE, Failure
from stage.cli.options import config_of, configured, reasons_of

if TYPE_CHECKING:
    from stage.bootstrap.database_files import Databases
    from stage.ports.identity import Identity
    from stage.store.migrate import MigrationStatus

NEEDED = ("database",)
ALL_FILES = click.option(
    "--all-files", is_flag=True, help="With several workers: the files of all, and not the first."
)


@click.group()
def db() -> None:
    """The database of a stage: its files and its migrations."""


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured((*NEEDED, "workers"))
def init(target: str, **given: Any) -> None:
    """Make the database, with --workers a file for each. It must not be there already."""
    config = config_of(given)

    from stage.cli.target import find_stage

    stage = find_stage(target)
    if config.workers > 1 and config.database.startswith("sqlite:"):
        from stage.bootstrap.workers import make_files

        for path in make_files(stage, config):
            click.echo(f"made {path}")
        return

    from stage.bootstrap.database_files import open_all

    with open_all(stage, config, make=True) as (database,):
        identity = database.identity
        assert identity is not None
        click.echo(f"made {database.path}: database {identity.id} of stage {identity.stage}")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def upgrade(target: str, **given: Any) -> None:
    """Apply what is pending, each file in a transaction of its own.

    Expansions may be applied while the stage is up; for any other the stage has to be stopped. With
    several workers it is applied to the files of all, or refused for all.
    """
    from stage.bootstrap.database_files import upgrade_all

    with _open_all(target, given) as databases:
        applied = upgrade_all(databases)
        several = len(databases) > 1
    for database, migrations in applied:
        for migration in migrations:
            click.echo(f"applied {migration.title}" + f" to {database.path}" * several)
    if not any(migrations for _, migrations in applied):
        click.echo("nothing is pending")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def status(target: str, **given: Any) -> int:
    """List the migrations. Exit status 1 when one is pending, changed or unknown.

    A migration that is ahead is an expansion of a later version, on which this one runs.
    """
    from stage.store.migrate import MigrationState

    fits = (MigrationState.APPLIED, MigrationState.AHEAD)
    with _open_all(target, given) as databases:
        found = [(each.path, each.identity, each.status()) for each in databases]
    for path, identity, lines in found:
        _show_status(path, identity, lines)
    return 0 if all(line.state in fits for _, _, lines in found for line in lines) else NEGATIVE


def _show_status(
    path: Path | str, identity: Identity | None, lines: Sequence[MigrationStatus]
) -> None:
    from stage.cli.draw import table
    from stage.wire.envelope import format_instant

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


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def sql(target: str, **given: Any) -> None:
    """Print the SQL that is pending, to be applied by hand."""
    with _open_all(target, given) as databases:
        texts = [(each.path, each.sql()) for each in databases]
    for path, text in texts:
        if text and len(texts) > 1:
            click.echo(f"-- in {path}")
        click.echo(text, nl=False)


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
@click.option("--as-of", required=True, metavar="TIME", help="When the backup was made, RFC 3339.")
@ALL_FILES
def restored(target: str, as_of: str, all_files: bool, **given: Any) -> None:
    """Accept a backup that was put back. Unknown sagas are answered 503 until `released`."""
    from stage.wire.envelope import format_instant, parse_instant

    try:
        instant = parse_instant(as_of)
    except ValueError as error:
        raise Failure(f"--as-of is {error}: give for example 2026-11-23T02:30:00Z") from error
    with _open_chosen(target, given, all_files=all_files) as databases:
        for database in databases:
            accepted = database.restored(instant)
            identity = accepted.identity
            click.echo(
                f"generation {identity.generation} of {database.path} begins with the backup of"
                f" {as_of}. Until `stage reconcile` and `stage db released` sagas that are not in"
                " it are answered 503"
            )
            if (since := identity.restored_as_of) is not None and since < instant:
                click.echo(
                    f"no saga in it changed behind {format_instant(since)}, so the neighbours are"
                    " asked from there on"
                )
            if stopped := accepted.stopped_sweeps:
                numbers = ", ".join(map(str, stopped))
                click.echo(
                    f"{len(stopped)} sweeps that ran in it are stopped: {numbers}. `stage sweeps N"
                    " --resume --reason TEXT` lets one go on"
                )


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured((*NEEDED, "upstreams", "downstreams"))
@click.option("--reason", required=True, help="Why nothing is lost any more.")
@click.option("--no-neighbours", is_flag=True, help="This stage has none to ask.")
@click.option(
    "--give-up",
    multiple=True,
    metavar="ID=REASON",
    help="Vouch for this saga too, which somebody asked to compensate. Repeatable.",
)
@ALL_FILES
def released(
    target: str,
    reason: str,
    no_neighbours: bool,
    give_up: tuple[str, ...],
    all_files: bool,
    **given: Any,
) -> None:
    """Vouch for a restored database: a saga that is not in it was never here.

    It is refused while one is not here that somebody asked to compensate since: `stage reconcile`
    takes it over. A saga that is given up leaves an act in the audit.
    """
    config = config_of(given)
    given_up = reasons_of("--give-up", "ID", give_up)
    neighbours = (*config.upstreams, *config.downstreams)
    with _open_chosen(target, given, all_files=all_files) as databases:
        lost = {saga_id for database in databases for saga_id, _, _ in database.lost_sagas()}
        if stray := sorted(given_up.keys() - lost):
            raise Failure(f"nobody waits for {', '.join(stray)}: look at the ids of --give-up")
        for database in databases:
            identity = database.identity
            waits = identity is not None and identity.awaits_release
            if waits and not neighbours and not no_neighbours:
                raise Failure(
                    "no neighbour is configured, so nobody knows who had to be asked: give every"
                    " --upstream and --downstream of the stage, or --no-neighbours where it has"
                    " none"
                )
            for saga_id, requested_by, why in database.lost_sagas():
                click.echo(f"lost: {saga_id}, asked for by {requested_by}: {why}")
            identity = database.released(neighbours, given_up)
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
    ended: set[str] = set()
    with _open_all(target, given) as databases:
        for database in databases:
            done = database.reencrypt(key_file)
            click.echo(f"{done.renewed} encrypted anew; all of {database.path} is under {done.key}")
            ended.update(done.ended)
    for key in sorted(ended):  # in none of the files
        click.echo(f"nothing is left {'in the clear' if key == 'plain' else f'under {key}'}")


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
def verify(target: str, **given: Any) -> int:
    """Look through the whole database, also while the stage is up. Exit status 1 when it is wrong.

    Every page and index is read, and each journal is compared with its row.
    """
    status = 0
    with _open_all(target, given) as databases:
        for database in databases:
            found = database.wrongs()
            for each in found:
                click.echo(each)
            if found:
                status = NEGATIVE
                mend = "keep the file, and put the last backup back"
                click.echo(f"database {database.path} is damaged: {mend}")
            else:
                click.echo(f"database {database.path} is whole")
    return status


@db.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@configured(NEEDED)
def backup(target: str, file: Path, **given: Any) -> None:
    """Copy the database to a new FILE, also while the stage is up, and check the copy.

    The files of other workers are copied to files beside it, with the list of all.
    """
    from stage.bootstrap.database_files import back_up_all
    from stage.wire.envelope import format_instant

    with _open_all(target, given) as databases:
        copies = back_up_all(databases, file)
    for made in copies:
        click.echo(
            f"backed up {made.sagas} sagas with {made.entries} entries to {made.path}"
            f" ({made.size} bytes), checked. Put back, it is accepted with"
            f" `stage db restored --as-of {format_instant(made.as_of)}`"
        )
    if len(copies) > 1:
        click.echo(f"the list of the files of all workers is in {file}.workers")


@contextmanager
def _open_all(target: str, given: dict[str, Any]) -> Iterator[Databases]:
    """The database of the stage, or those of all its workers."""
    config = config_of(given)

    from stage.cli.target import find_stage

    stage = find_stage(target)

    from stage.bootstrap.database_files import open_all

    with open_all(stage, config) as databases:
        yield databases


@contextmanager
def _open_chosen(target: str, given: dict[str, Any], *, all_files: bool) -> Iterator[Databases]:
    """The database of the stage; with several workers its first file, or all of them."""
    with _open_all(target, given) as databases:
        if not all_files and len(databases) > 1:
            names = ", ".join(str(each.path) for each in databases[1:])
            click.echo(
                f"{databases[0].path} is that of worker 0 alone; the stage has also {names}: say"
                " --all-files for all of them, or name one with --database",
                err=True,
            )
        yield databases if all_files else databases[:1]
