"""`stage purge`: the rows of sagas that ended long ago, dropped by a sweep."""

from __future__ import annotations

import click

from stage.cli.failure import Failure
from stage.cli.operate import audited
from stage.cli.sweep import begin
from stage.core.states import SagaState
from stage.core.sweep_verbs import SWEEP_RATE_MAX

ENDED = (SagaState.COMPLETED.value, SagaState.COMPENSATED.value)


@click.command(short_help="Drop the rows of sagas that ended before a date.")
@click.option(
    "--ended-before",
    required=True,
    metavar="TIME",
    help="Those that last changed before, RFC 3339.",
)
@click.option(
    "--ended-from",
    metavar="TIME",
    help="Of those, the ones that last changed then or later.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=SWEEP_RATE_MAX),
    default=50.0,
    show_default=True,
    help="Sagas a second.",
)
@audited
def purge(
    ended_before: str,
    ended_from: str | None,
    rate: float,
    url: str,
    reason: str,
    actor: str,
    dry_run: bool,
) -> int:
    """Drop every saga that is closed and ended before TIME: a sweep, which `stage sweeps` shows.

    A repeat of one is answered 410 from then on, and never run. A saga whose id is no UUIDv7 keeps
    its row, and loses its answer. At most 20,000 at a time, those with the first ids: it says how
    many are left, and is given again for them once it is done. Where rows stay, go on from a later
    --ended-from.
    """
    for option, instant in (("--ended-before", ended_before), ("--ended-from", ended_from)):
        _check_instant(option, instant)
    order = {"actor": actor, "reason": reason, "dry_run": dry_run}
    where = {"state": ENDED, "changed_from": ended_from, "changed_before": ended_before}
    return begin(url, "purge", where, rate, order)


def _check_instant(option: str, instant: str | None) -> None:
    from stage.wire.envelope import parse_instant

    try:
        if instant is not None:
            parse_instant(instant)
    except ValueError as error:
        raise Failure(
            f"{option} is {error}: give for example 2026-11-23T02:30:00Z, a date with its time"
        ) from None
