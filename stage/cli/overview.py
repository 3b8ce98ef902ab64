"""`stage groups`, `stage peers` and `stage audit`: what waits, for whom, and what was done."""

from __future__ import annotations

import click

from stage.cli.remote import output_option, url_option


@click.command(short_help="Count what waits and is parked, by cause, step and peer.")
@url_option
@output_option
def groups(url: str, output: str) -> None:
    """Count what waits and is parked, by cause, step and peer, with the age of the oldest.

    `stage sagas` with the same words lists the sagas of a line.
    """
    from stage.cli.draw import draw_groups
    from stage.cli.remote import fetch
    from stage.wire.views import GroupsView, encode_view

    found = fetch(url, "/groups", GroupsView)
    click.echo(encode_view(found).decode() if output == "json" else draw_groups(found))


@click.command(short_help="Show what people did, the newest first.")
@click.option("--target", metavar="ID", help="Done to this saga, or peer.")
@click.option("--before", type=click.IntRange(min=1), metavar="N", help="Those before number N.")
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many."
)
@url_option
@output_option
def audit(target: str | None, before: int | None, limit: int, url: str, output: str) -> None:
    """Show what people did: when, who, to which saga, why, and how it stood before and after."""
    from urllib.parse import urlencode

    from stage.cli.draw import draw_acts
    from stage.cli.remote import fetch
    from stage.wire.views import ActPage, encode_view

    given = {"limit": limit, "before": before, "target": target}
    query = urlencode({name: value for name, value in given.items() if value is not None})
    page = fetch(url, f"/audit?{query}", ActPage)
    click.echo(encode_view(page).decode() if output == "json" else draw_acts(page))


@click.command(short_help="Show every peer: how it answers, and what waits for it.")
@url_option
@output_option
def peers(url: str, output: str) -> None:
    """Show every neighbour and API: how it answers the replica that is asked, and what waits."""
    from stage.cli.draw import draw_peers
    from stage.cli.remote import fetch
    from stage.wire.views import PeersView, encode_view

    found = fetch(url, "/peers", PeersView)
    click.echo(encode_view(found).decode() if output == "json" else draw_peers(found))
