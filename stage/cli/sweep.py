"""`stage sweep` and `stage sweeps`: one verb for many sagas, done by the stage at a rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from stage.cli.failure import Failure
from stage.cli.given import GIVEN
from stage.cli.operate import audited
from stage.cli.orders import give, key_option
from stage.cli.remote import output_option, url_option
from stage.cli.where import query_of, refuse_unknown, where_options
from stage.core.sweep_verbs import SWEEP_RATE_MAX, SweepVerb

VERBS = tuple(verb.value for verb in SweepVerb)


@click.command(short_help="Do a verb to many sagas, at a rate.")
@click.argument("verb", type=click.Choice(VERBS))
@where_options
@click.option("--id", "saga_ids", multiple=True, metavar="ID", help="These instead. Repeatable.")
@click.option(
    "--of-step", type=GIVEN, metavar="STEP", help="For resolve and abandon: this one alone."
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True, max=SWEEP_RATE_MAX),
    default=10.0,
    show_default=True,
    help="Sagas a second.",
)
@audited
def sweep(
    verb: str,
    saga_ids: tuple[str, ...],
    of_step: str | None,
    rate: float,
    url: str,
    **given: Any,
) -> int:
    """Do VERB to every saga that the options name, as `stage sagas` lists them.

    With --dry-run they are counted and nothing is begun. The stage does it, also when this command
    or its process ends: `stage sweeps` shows the progress.
    """
    order = {name: given.pop(name) for name in ("dry_run", "actor", "reason")}
    where = _named(given)
    if bool(where) is bool(saga_ids):
        raise Failure("say which sagas: by options as of `stage sagas`, or by --id")
    named = {"saga_ids": list(saga_ids)} if saga_ids else {"where": where}
    body = {**order, **named, "verb": verb, "rate_per_second": rate}
    if of_step is not None:
        body["step"] = of_step
    return _send(url, "/sweeps", body, peers=where.get("peer", ()))


@click.command(short_help="Show sweeps and their progress; stop one, or let it go on.")
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--stop", "change", flag_value="stop", help="Act on no further saga.")
@click.option("--resume", "change", flag_value="resume", help="Let it go on.")
@click.option("--reason", metavar="TEXT", help="Why; needed to stop or resume.")
@click.option("--actor", envvar="USER", default="operator", show_default=True, help="Who asks.")
@key_option
@url_option
@output_option
def sweeps(
    number: int | None, change: str | None, reason: str | None, actor: str, url: str, output: str
) -> int:
    """Show the newest sweeps, or that of NUMBER with the sagas that it could not act on."""
    from stage.cli.draw import draw_sweep, draw_sweeps
    from stage.cli.remote import fetch
    from stage.wire.views import SweepsView, SweepView, encode_view

    if change is not None:
        if number is None or not reason:
            raise Failure(f"--{change} needs the NUMBER of a sweep, and --reason")
        return _send(url, f"/sweeps/{number}/{change}", {"reason": reason, "actor": actor})
    if number is not None:
        one = fetch(url, f"/sweeps/{number}", SweepView)
        click.echo(encode_view(one).decode() if output == "json" else draw_sweep(one))
        return 0
    found = fetch(url, "/sweeps", SweepsView)
    click.echo(encode_view(found).decode() if output == "json" else draw_sweeps(found.sweeps))
    return 0


def begin(url: str, verb: str, where: dict[str, Any], rate: float, order: dict[str, Any]) -> int:
    """Begin a sweep of a verb that has a command of its own."""
    return _send(
        url, "/sweeps", {**order, "where": _named(where), "verb": verb, "rate_per_second": rate}
    )


def _named(given: dict[str, Any]) -> dict[str, list[str]]:
    """The options that name sagas, as `where` of a sweep has them."""
    where: dict[str, list[str]] = {}
    for name, value in query_of(given):
        where.setdefault(name, []).append(value)
    return where


def _send(url: str, path: str, order: dict[str, Any], peers: Sequence[str] = ()) -> int:
    """Give the order. A sweep of no saga says where no peer has one of the names."""
    from stage.cli.draw import draw_sweep
    from stage.cli.remote import refuse
    from stage.wire.views import SweepView, decode_view

    answer = give(url, path, order)
    if answer.status != 200:
        refuse(url, answer)
    swept = decode_view(answer.body, SweepView)
    if not swept.sagas:
        refuse_unknown(url, peers)
    click.echo(draw_sweep(swept))
    return 0
