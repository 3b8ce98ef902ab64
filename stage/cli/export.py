"""`stage export`: sagas as JSON lines, for archives, spreadsheets and audits elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from stage.cli.failure import Failure
from stage.cli.remote import url_option
from stage.cli.sagas import checked_path, saga_and_journal
from stage.cli.where import query_of, where_options

GONE: Final = (404, 410)
"""The answers for a saga that is not there any more."""
PAGE: Final = 500
"""Sagas of one request: the most that a stage gives at once."""


@click.command(short_help="Write sagas as JSON lines.")
@click.argument("saga_ids", metavar="[ID]...", nargs=-1)
@url_option
@where_options
@click.option("--journal", is_flag=True, help="With steps, what stands, and the journal of each.")
@click.option("--after", default="", metavar="ID", help="Those after this id: go on behind a line.")
def export(saga_ids: tuple[str, ...], url: str, journal: bool, after: str, **where: Any) -> None:
    """Write one JSON object a line for each saga, in the order of their ids.

    Give IDs, or which by the options of `stage sagas`; all without either. Lines are written as
    they come, and never hold payloads. After a failure the last line is whole: `--after` with its
    saga_id goes on.
    """
    query = query_of(where)
    if saga_ids and (query or after):
        raise Failure("say which in one way: IDs, or the options of `stage sagas`")
    rows = _named(url, saga_ids) if saga_ids else _listed(url, query, after)
    for row in rows:
        click.echo(_line(_whole(url, row, listed=not saga_ids) if journal else row))


def _named(url: str, saga_ids: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """One saga for each id. Raises Failure at the first that is not there."""
    import msgspec

    from stage.cli.remote import fetch
    from stage.wire.views import SagaView

    for saga_id in saga_ids:
        yield msgspec.to_builtins(fetch(url, checked_path(saga_id), SagaView))


def _listed(url: str, query: list[tuple[str, str]], after: str) -> Iterator[Mapping[str, Any]]:
    """Every saga that the query narrows to, asked for page by page."""
    from urllib.parse import urlencode

    import msgspec

    from stage.cli.remote import fetch
    from stage.wire.views import SagaPage

    seen: str | None = after
    while seen is not None:
        pages = [("limit", str(PAGE)), *([("after", seen)] if seen else [])]
        page = fetch(url, f"/sagas?{urlencode([*query, *pages])}", SagaPage)
        yield from msgspec.to_builtins(page.sagas)
        if page.next is not None and page.next == seen:
            raise Failure(f"{url} gives the page after {seen!r} again: check --url")
        seen = page.next


def _whole(url: str, row: Mapping[str, Any], *, listed: bool) -> Mapping[str, Any]:
    """The saga with its journal; as it was `listed`, with none, where it was dropped since."""
    import msgspec

    try:
        saga, entries = saga_and_journal(url, row["saga_id"])
    except Failure as error:
        if listed and error.answered in GONE:
            return {**row, "journal": []}
        raise
    return {**msgspec.to_builtins(saga), "journal": entries}


def _line(saga: Mapping[str, Any]) -> str:
    import msgspec

    return msgspec.json.encode(saga).decode()
