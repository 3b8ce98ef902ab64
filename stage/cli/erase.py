"""`stage erase`: all contents of one saga, or of many, dropped also from the files."""

from __future__ import annotations

from typing import Any

import click

from stage.cli.failure import Failure
from stage.cli.operate import audited, operate
from stage.cli.sweep import begin
from stage.cli.where import query_of, where_options
from stage.core.sweep_verbs import SWEEP_RATE_MAX


@click.command(short_help="Drop all contents of a saga that is over, also from the files.")
@click.argument("saga_id", metavar="[ID]", required=False)
@where_options
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=SWEEP_RATE_MAX),
    default=50.0,
    show_default=True,
    help="Of many: sagas a second.",
)
@audited
def erase(
    saga_id: str | None, rate: float, url: str, reason: str, actor: str, dry_run: bool, **where: Any
) -> int:  # fmt: skip
    """Erase a saga: payload, journal, results and answer. Its id and its outcome stay.

    Give ID, or which by the options of `stage sagas`: then it is a sweep, which `stage sweeps`
    shows. The database is copied within itself, so that its files hold no byte of it; writers wait
    for that.
    """
    order = {"actor": actor, "reason": reason, "dry_run": dry_run}
    if (saga_id is None) is not bool(query_of(where)):
        raise Failure("say which: an ID, or the options of `stage sagas`")
    if saga_id is not None:
        return operate(url, saga_id, "erase", order)
    return begin(url, "erase", where, rate, order)
