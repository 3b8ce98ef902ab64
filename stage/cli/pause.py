"""`stage pause`, `stage resume` and `stage pauses`: hold what goes to a peer, or new sagas."""

from __future__ import annotations

from typing import Any

import click

from stage.cli.orders import give, key_option
from stage.cli.remote import output_option, url_option
from stage.wire.duration import UNITS


def seconds_of(text: str) -> float:
    """A duration such as 90s, 15min, 2h or 1d; a bare number is in seconds. Raises ValueError."""
    for unit, size in sorted(UNITS.items(), key=lambda each: -len(each[0])):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * size
    return float(text)


def _duration(_context: click.Context, _option: click.Parameter, text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no duration: give 90s, 15min, 2h or 1d") from None


_direction = click.option(
    "--direction",
    type=click.Choice(["forward", "backward"]),
    help="Hold this one alone: forward, or backward for what undoes.",
)
_actor = click.option(
    "--actor", envvar="USER", default="operator", show_default=True, help="The person who asks."
)


@click.command(short_help="Hold what goes to a peer, or refuse new sagas for now.")
@click.argument("target", metavar="TARGET")
@click.option(
    "--for", "seconds", required=True, callback=_duration, metavar="TIME", help="90s, 15min, 2h."
)
@_direction
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the audit.")
@_actor
@key_option
@url_option
def pause(
    target: str, seconds: float, direction: str | None, reason: str, actor: str, url: str
) -> int:
    """Hold TARGET until --for is over: `intake`, or a peer such as externals.psp.

    Every replica obeys within two seconds. A step that is held waits, and a saga whose deadline is
    over meanwhile turns back. While the intake is paused new sagas are answered 503.
    """
    order = {"target": target, "seconds": seconds, "reason": reason, "actor": actor}
    return _send(url, "/pauses", order, direction)


@click.command(short_help="End a pause before its time.")
@click.argument("target", metavar="TARGET")
@_direction
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the audit.")
@_actor
@key_option
@url_option
def resume(target: str, direction: str | None, reason: str, actor: str, url: str) -> int:
    """End the pause of TARGET, in the direction that it was given; what it held leaves at once."""
    order = {"target": target, "reason": reason, "actor": actor}
    return _send(url, "/pauses/end", order, direction)


@click.command(short_help="Show what is paused, by whom, why and until when.")
@url_option
@output_option
def pauses(url: str, output: str) -> None:
    """Show what is paused, by whom, why and until when."""
    from stage.cli.draw import draw_pauses
    from stage.cli.remote import fetch
    from stage.wire.views import PausesView, encode_view

    found = fetch(url, "/pauses", PausesView)
    click.echo(encode_view(found).decode() if output == "json" else draw_pauses(found))


def _send(url: str, path: str, order: dict[str, Any], direction: str | None) -> int:
    from stage.cli.draw import draw_pauses
    from stage.cli.remote import refuse
    from stage.wire.views import PausesView, decode_view

    answer = give(url, path, order if direction is None else {**order, "direction": direction})
    if answer.status != 200:
        refuse(url, answer)
    click.echo(draw_pauses(decode_view(answer.body, PausesView)))
    return 0
