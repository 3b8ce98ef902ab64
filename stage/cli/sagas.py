"""`stage sagas` and `stage show`: the state of sagas at a running stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import Failure
from stage.cli.remote import output_option, url_option
from stage.cli.where import query_of, refuse_unknown, where_options

if TYPE_CHECKING:
    from stage.wire.views import SagaView, VerbView


@click.command()
@url_option
@where_options
@click.option(
    "--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many."
)
@click.option("--after", default="", metavar="ID", help="Those after this id: the next page.")
@output_option
def sagas(url: str, limit: int, after: str, output: str, **where: Any) -> None:
    """List sagas in the order of their ids. Each option narrows the list."""
    from urllib.parse import urlencode

    from stage.cli.draw import draw_page
    from stage.cli.remote import fetch
    from stage.wire.views import SagaPage, encode_view

    query = [("limit", str(limit)), *query_of(where)]
    if after:
        query.append(("after", after))
    page = fetch(url, f"/sagas?{urlencode(query)}", SagaPage)
    if not page.sagas and not after and where["peer"] is not None:
        refuse_unknown(url, [where["peer"]])
    click.echo(encode_view(page).decode() if output == "json" else draw_page(page))


@click.command(short_help="Show where a saga stands, and what is next.")
@click.argument("saga_id", metavar="ID")
@url_option
@output_option
def show(saga_id: str, url: str, output: str) -> None:
    """Show one saga: where it stopped, what stands, what happens next and when."""
    import time

    from stage.cli.draw import draw_saga

    saga, entries = saga_and_journal(url, saga_id)
    verbs = _verbs(url, checked_path(saga_id))
    if output == "json":
        import msgspec

        shown = {**msgspec.to_builtins(saga), "journal": entries}
        shown["verbs"] = msgspec.to_builtins(verbs)
        click.echo(msgspec.json.encode(shown).decode())
    else:
        click.echo(draw_saga(saga, entries, now=time.time(), verbs=verbs))


def saga_and_journal(url: str, saga_id: str) -> tuple[SagaView, list[dict[str, Any]]]:
    """One saga and all entries of its journal, asked for page by page. Raises Failure."""
    from stage.cli.remote import fetch
    from stage.wire.views import JournalView, SagaView

    path = checked_path(saga_id)
    saga = fetch(url, path, SagaView)
    page = fetch(url, f"{path}?view=journal", JournalView)
    entries, after = list(page.entries), 0
    while page.next is not None and page.next > after:
        after = page.next
        page = fetch(url, f"{path}?view=journal&after={after}", JournalView)
        entries += page.entries
    return saga, entries


def _verbs(url: str, path: str) -> list[VerbView]:
    """The verbs and whether they are allowed; none of a stage that is older than this view."""
    from stage.cli.remote import fetch
    from stage.wire.views import VerbsView

    try:
        return fetch(url, f"{path}?view=verbs", VerbsView).verbs
    except Failure:
        return []


def checked_path(saga_id: str) -> str:
    """The path of the saga at a stage. Raises Failure for what is no saga id."""
    from stage.wire.envelope import check_saga_id, path_of_saga
    from stage.wire.problem import WireError

    try:
        return path_of_saga(check_saga_id(saga_id))
    except WireError as error:
        raise Failure(f"{error.detail}: {error.hint}") from None
