"""`stage top`: what is under way, waits and is parked, drawn anew every few seconds."""

from __future__ import annotations

import click

from stage.cli.remote import output_option, url_option

CLEAR = "\x1b[H\x1b[2J"


@click.command(short_help="Show what is under way, waits and is parked, and go on showing it.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.5),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Draw it anew after so long.",
)
@click.option("--once", is_flag=True, help="Draw it once; so does -o json.")
@url_option
@output_option
def top(every: float, once: bool, url: str, output: str) -> None:
    """Show the stage as a whole until it is interrupted: the figures, and where sagas wait."""
    import time

    from stage.cli.draw import draw_groups, draw_now
    from stage.cli.remote import fetch
    from stage.wire.views import GroupsView, NowView, encode_view

    while True:
        now = fetch(url, "/now", NowView)
        if output == "json":
            click.echo(encode_view(now).decode())
            return
        drawn = f"{draw_now(now)}\n\n{draw_groups(fetch(url, '/groups', GroupsView))}"
        click.echo(drawn if once else CLEAR + drawn)
        if once:
            return
        time.sleep(every)
