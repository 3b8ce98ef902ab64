"""`stage send`: start a saga at a stage, as the one before it would."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from stage.cli.failure import NEGATIVE, Failure, one_line
from stage.cli.remote import token_file_option

if TYPE_CHECKING:
    from stage.wire.envelope import Envelope


FORBIDDEN = 403
SAGAS = "/sagas"


@click.command(short_help="Start a saga at a stage.")
@click.argument("url")
@click.argument("json", metavar="JSON|-")
@click.option("--id", "saga_id", metavar="ID", help="The saga's id; else a new UUIDv7.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, max=604_800),
    metavar="SECONDS",
    help="How long the saga may take.",
)
@click.option("--as", "sender", metavar="NAME", help="The upstream whose token is shown.")
@token_file_option
@click.option("--async", "respond_async", is_flag=True, help="Do not wait for the end.")
def send(
    url: str,
    json: str,
    saga_id: str | None,
    deadline: float | None,
    sender: str | None,
    respond_async: bool,
) -> int:
    """Send a saga with the payload JSON (- reads it from stdin) to the stage at URL.

    Prints the code, the outcome and the body. Exit status 0 only when the saga is executed. Sent
    again with the same --id it is the same saga: it joins, or gets the same answer.
    """
    from stage.cli.remote import exchange
    from stage.wire import headers as h
    from stage.wire.envelope import encode_envelope

    _check_base(url)
    body = sys.stdin.buffer.read() if json == "-" else json.encode("utf-8", "surrogateescape")
    envelope = _envelope(body, saga_id, deadline, sender)
    saga_id = envelope.saga_id
    headers = {"Content-Type": h.CONTENT_JSON, h.IDEMPOTENCY_KEY: saga_id}
    if deadline is not None:
        headers[h.SAGA_BUDGET_MS] = str(int(deadline * 1000))
    if respond_async:
        headers[h.PREFER] = "respond-async"
    try:
        answer = exchange("POST", url, SAGAS, body=encode_envelope(envelope), headers=headers)
    except Failure as error:
        if error.status == NEGATIVE:
            raise Failure(f"{error} {saga_id}", NEGATIVE) from error
        raise
    outcome = _outcome(answer.status, answer.body, saga_id)
    trace = answer.headers.get(h.TRACE_ID.lower())
    replayed = "  replayed" if h.IDEMPOTENCY_REPLAYED.lower() in answer.headers else ""
    click.echo(f"{answer.status} {outcome}  saga {saga_id}  trace {trace or '-'}{replayed}")
    click.echo(one_line(answer.body.decode("utf-8", "replace")))
    if answer.status == FORBIDDEN and sender is None:
        click.echo("the saga names no sender: add --as with the name of its token", err=True)
    return 0 if outcome == "executed" else NEGATIVE


def _check_base(url: str) -> None:
    """Refuse the address of the route, which every example of another client has."""
    from stage.cli.remote import checked_url

    if url.rstrip("/").endswith(SAGAS):
        base = url.rstrip("/").removesuffix(SAGAS)
        raise Failure(f"URL is the address of the stage, without {SAGAS}: give {base}")
    if not url.startswith("unix:"):
        checked_url(url, "URL")


def _envelope(
    body: bytes, saga_id: str | None, deadline: float | None, sender: str | None
) -> Envelope:
    """The envelope of a new saga. Raises Failure for a payload or an id that is not accepted."""
    import time

    from stage.wire.envelope import (
        Envelope,
        TrailEntry,
        check_saga_id,
        format_instant,
        new_saga_id,
    )
    from stage.wire.problem import WireError
    from stage.wire.strict_json import decode_object

    try:
        return Envelope(
            saga_id=new_saga_id() if saga_id is None else check_saga_id(saga_id),
            data=decode_object(body),
            trail=(TrailEntry(stage=sender, at=format_instant(time.time())),) if sender else (),
            deadline=None if deadline is None else time.time() + deadline,
        )
    except WireError as error:
        hint = f": {error.hint}" if error.hint else ""
        raise Failure(f"nothing was sent: {error.detail}{hint}") from None


def _outcome(status: int, body: bytes, saga_id: str) -> str:
    """The outcome in the stage's own word; unknown where code and outcome do not agree."""
    from stage.wire.outcome import Outcome
    from stage.wire.replies import ReplyKind, kind_of_reply, own_word

    match kind_of_reply(status, body, saga_id):
        case ReplyKind.UNKNOWN | ReplyKind.IN_DOUBT:
            return Outcome.UNKNOWN.value
        case _:
            return (own_word(body, saga_id) or Outcome.UNKNOWN).value
