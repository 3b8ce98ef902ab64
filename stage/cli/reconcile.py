"""`stage reconcile`: ask the neighbours for sagas that a restored database lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import NEGATIVE, Failure
from stage.cli.options import config_of, configured, reasons_of
from stage.cli.remote import token_file_option

if TYPE_CHECKING:
    from stage.cli.beside import Shards
    from stage.engine.reconcile import Reconciliation

NEEDED = ("database", "payload_key_file", "upstreams", "downstreams")


@click.command(short_help="Find the sagas that a restored database lost.")
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@configured(NEEDED)
@click.option("--since", metavar="TIME", help="When the backup was made, if that was not said.")
@click.option(
    "--without",
    multiple=True,
    metavar="NAME=REASON",
    help="Do not ask this neighbour, and say why. Repeatable.",
)
@click.option(
    "--beside",
    multiple=True,
    metavar="URL",
    help="Another shard of this stage: a saga that it has is not missing. Repeatable.",
)
@click.option(
    "--under-these-names",
    is_flag=True,
    help="All of them ran under the names of this release, though a saga of the backup did not.",
)
@token_file_option
@click.option("--dry-run", is_flag=True, help="Ask and show, and change nothing.")
def reconcile(
    target: str,
    since: str | None,
    without: tuple[str, ...],
    beside: tuple[str, ...],
    under_these_names: bool,
    dry_run: bool,
    **given: Any,
) -> int:
    """Ask every neighbour for its sagas since the backup, and adopt those that are missing.

    For a shard every other one has to be given with --beside, and has to be up; they are shown the
    token of --token-file.

    The stage has to be stopped; on PostgreSQL a dry run may go on beside it. Exit status 1 when a
    neighbour did not answer, or when one that has opened sagas is not configured.
    """
    import asyncio

    from stage.bootstrap import reconcile as reconciled
    from stage.cli.beside import Shards
    from stage.cli.target import find_stage
    from stage.engine.reconcile import all_belong

    config = config_of(given)
    reasons = reasons_of("--without", "NAME", without)
    stage = find_stage(target)
    shards = Shards(beside, stage.name) if beside else None
    found = asyncio.run(
        reconciled(
            *(stage, config),
            since=_instant(since),
            without=reasons,
            dry_run=dry_run,
            belongs=all_belong if shards is None else shards.belong,
            under_these_names=under_these_names,
        )
    )
    _show(found, shards, dry_run=dry_run)
    return NEGATIVE if found.unanswered or found.unnamed else 0


def _instant(since: str | None) -> float | None:
    from stage.wire.envelope import parse_instant

    try:
        instant = None if since is None else parse_instant(since)
        if instant is not None and instant < 0:
            raise ValueError("before any saga")
    except ValueError as error:
        raise Failure(f"--since is {error}: give for example 2026-11-23T02:30:00Z") from error
    return instant


def _show(found: Reconciliation, shards: Shards | None, *, dry_run: bool) -> None:
    from stage.cli.draw import table

    if shards is not None:
        click.echo(f"{len(shards.has)} sagas that are not here are at another shard")
    for peer, count in found.asked.items():
        click.echo(f"{peer} lists {count} sagas")
    for peer, ids in found.dropped.items():
        click.echo(f"{len(ids)} sagas of {peer} are not here: they were dropped for their age")
    for peer, reason in found.unanswered.items():
        click.echo(f"{peer} was not asked: {reason}. Ask again, or give --without {peer}=REASON")
    for name, count in found.unnamed.items():
        click.echo(_unnamed(name, count))
    rows = [
        (
            saga.id,
            ", ".join(f"{word.neighbour}: {word.said}" for word in saga.words) or "no one",
            _becomes(saga),
        )
        for saga in found.lost
    ]
    if rows:
        click.echo(table(("LOST SAGA", "SAID", "WOULD BE" if dry_run else "IS"), rows))
    for said in _remarks(found):
        click.echo(said)
    if not (rows or found.differences or found.unanswered or found.unnamed):
        click.echo("nothing is missing")
    if dry_run:
        click.echo("a dry run counts for no release: run it once more without --dry-run")


def _remarks(found: Reconciliation) -> Iterator[str]:
    """The matters that a person has to look into."""
    if found.lost and found.called_otherwise:
        yield f"{found.called_otherwise}: see `after a restore` in docs/operator.md"
    for each in found.differences:
        yield (
            f"saga {each.saga_id} is {each.state} here, and {each.neighbour} says {each.said}:"
            " look at both, then `stage compensate` or `stage show`"
        )
    for saga_id in sorted(found.elsewhere):
        yield (
            f"{saga_id} was asked to be compensated here, and is not of this database: ask its own"
            f" shard, and release this one with --give-up {saga_id}=REASON"
        )
    if not found.whole:
        yield (
            "--since is later than the backup, so that `stage db released` does not count this:"
            " run it once more without --since"
        )


def _unnamed(name: str, count: int) -> str:
    from stage.ports.reconcile import UNREADABLE

    if name == UNREADABLE:
        return (
            f"{count} sagas have an envelope that cannot be read, so that their openers are not"
            f" known: give the payload keys, or --without {name}=REASON"
        )
    return (
        f"{name} opened {count} sagas, and is no configured neighbour: give --upstream"
        f" {name}=URL, or --without {name}=REASON"
    )


def _becomes(saga: Any) -> str:
    if not saga.may_stand:
        return "compensated: nothing stands"
    if saga.asked is not None:
        return f"to be compensated, as {saga.asked.requested_by} asked"
    if saga.strangers:
        return f"parked: may stand; {', '.join(saga.strangers)} asks, and it may not be its own"
    return "parked: may stand"
