"""`stage trace`: the story of a saga across all stages, drawn without any collector."""

from __future__ import annotations

import os

import click

from stage.cli.failure import Failure
from stage.cli.remote import output_option, url_option
from stage.cli.sagas import checked_path

TRACE_URL = "STAGE_TRACE_URL"
PLACE = "{trace_id}"


@click.command(short_help="Draw a saga's way through the whole chain.")
@click.argument("saga_id", metavar="ID")
@url_option
@output_option
def trace(saga_id: str, url: str, output: str) -> None:
    """Draw one saga's way down the chain and back up, as the stages themselves show it.

    Any stage can be asked; it asks its neighbours. With STAGE_TRACE_URL, such as
    https://jaeger.example/trace/{trace_id}, the URL of the trace is added.
    """
    from stage.cli.remote import fetch
    from stage.cli.waterfall import draw_chain
    from stage.wire.chain import ChainView
    from stage.wire.views import encode_view

    view = fetch(url, f"{checked_path(saga_id)}?view=chain", ChainView)
    if output == "json":
        click.echo(encode_view(view).decode())
        return
    ids = [story.trace_id for story in view.stages if story.trace_id]
    click.echo(draw_chain(view, link=_link(ids[0]) if ids else ""))


def _link(trace_id: str) -> str:
    template = os.environ.get(TRACE_URL, "")
    if not template:
        return ""
    if PLACE not in template:
        raise Failure(f"{TRACE_URL} has no {PLACE}: give for example https://host/trace/{PLACE}")
    return template.replace(PLACE, trace_id)
