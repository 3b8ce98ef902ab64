"""The HTTP endpoints of the payment provider."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from aiohttp import web
from opentelemetry import trace as otel

from stage.demo.psp.books import Answer, Books, BooksFullError, Entry, Seen
from stage.demo.psp.script import (
    CHARGE_SCRIPTS,
    REFUND_SCRIPTS,
    Script,
    ScriptName,
    Scripts,
)
from stage.demo.psp.tracing import TRACER, traced
from stage.demo.psp.webhooks import Webhooks
from stage.neighbours.shared.silence import drop, hang

T = TypeVar("T")

BODY_BYTES_MAX = 1024 * 1024
KEY_LENGTH_MAX = 512
IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_REPLAYED = "Idempotency-Replayed"


class ChargeBody(msgspec.Struct):
    """The body of `POST /charges`; other members are ignored."""

    amount: Annotated[int, msgspec.Meta(gt=0)]


class RefundBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /refunds`: the key of the charge, its id, or both."""

    key: str | None = None
    charge_id: str | None = None


BOOKS = web.AppKey("BOOKS", Books)
SCRIPTS = web.AppKey("SCRIPTS", Scripts)
WEBHOOKS = web.AppKey("WEBHOOKS", Webhooks)


def make_app(
    tracer_provider: otel.TracerProvider | None = None, webhooks: Webhooks | None = None
) -> web.Application:
    """The provider with empty books and no script. Without a tracer provider: the global one."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[traced])
    app[TRACER] = otel.get_tracer("psp", tracer_provider=tracer_provider)
    app[BOOKS] = Books()
    app[SCRIPTS] = Scripts()
    app[WEBHOOKS] = webhooks or Webhooks()
    app.add_routes(
        [
            web.post("/charges", post_charge),
            web.get("/charges", get_books),
            web.get("/charges/by-key/{key:.+}", get_charge),
            web.post("/charges/by-key/{key:.+}/refund", post_refund_by_key),
            web.post("/charges/by-key/{key:.+}/confirm", post_confirm),
            web.post("/refunds", post_refund),
            web.put("/script", put_script),
            web.get("/script", get_scripts),
        ]
    )
    return app


async def post_charge(request: web.Request) -> web.StreamResponse:
    """Charge once for each key: 201, or 402 by script; 410 closed; 422 another body."""
    books = request.app[BOOKS]
    key = own_key(request)
    entry = open_entry(request, key)
    raw = await request.read()
    body, asked = decode(raw, ChargeBody), decode(raw, dict)

    if entry.asked is not None and entry.asked != asked:
        raise problem(web.HTTPUnprocessableEntity, "this key was used with another body")
    script = request.app[SCRIPTS].strike(key, CHARGE_SCRIPTS)
    if script is ScriptName.HANG:
        return await hang(request)
    if script is ScriptName.ERROR:
        raise problem(web.HTTPInternalServerError, "the provider failed; nothing happened")

    replayed = entry.answer is not None
    if entry.answer is None:
        if entry.closed:
            raise problem(web.HTTPGone, "this key was refunded before it was charged", "closed_key")
        entry.asked = asked
        if script is ScriptName.PENDING or entry.pending:
            entry.pending = True
            return pending(key)
        entry.answer = decide(books, entry, body.amount, refuse=script is ScriptName.REFUSE)
    if script is ScriptName.EFFECT_THEN_HANG:
        return await hang(request)
    if script is ScriptName.EFFECT_THEN_DROP:
        return drop(request)
    return respond(entry.answer, replayed=replayed)


def decide(books: Books, entry: Entry, amount: int, *, refuse: bool) -> Answer:
    """The answer to the first charge under a key: made, or declined without an effect."""
    if refuse:
        said = {"error": "card declined", "code": "declined", "key": entry.key}
        return Answer(402, msgspec.json.encode(said))
    books.charge(entry, amount)
    return Answer(
        201, msgspec.json.encode({"id": entry.charge_id, "amount": amount, "key": entry.key})
    )


async def get_books(request: web.Request) -> web.Response:
    """The books: `{"charges": [...], "totals": {...}}`, in the order of the first requests."""
    books = request.app[BOOKS]
    charges = [entry.as_json() for entry in books.entries.values()]
    return web.json_response({"charges": charges, "totals": books.totals()})


async def get_charge(request: web.Request) -> web.Response:
    """The charge made under a key, refunded or not; 404 when none was."""
    entry = request.app[BOOKS].entries.get(request.match_info["key"])
    if entry is not None and entry.pending and not entry.closed:
        return pending(entry.key)
    if entry is None or entry.charge_id is None:
        raise problem(web.HTTPNotFound, "no charge was made under this key", "unknown_key")
    entry.remember(seen(request))
    return web.json_response(
        {
            "id": entry.charge_id,
            "amount": entry.amount,
            "key": entry.key,
            "refunded": entry.standing == 0,
        }
    )


def pending(key: str) -> web.Response:
    """The answer while the customer has not confirmed the charge."""
    return web.json_response({"state": "pending", "key": key}, status=202)


async def post_confirm(request: web.Request) -> web.Response:
    """The customer confirms a pending charge: it is made, and a webhook says so, twice.

    A look-up before the first one is acknowledged is answered that it is pending.
    """
    books = request.app[BOOKS]
    entry = books.entries.get(request.match_info["key"])
    if entry is None or not entry.pending or entry.closed:
        raise problem(web.HTTPConflict, "no charge is pending under this key")
    entry.answer = decide(books, entry, entry.asked["amount"], refuse=False)
    said = {"type": "charge.succeeded", "id": entry.charge_id, "key": entry.key}
    first = await request.app[WEBHOOKS].send(said)
    entry.pending = False
    return web.json_response({"webhooks": [first, await request.app[WEBHOOKS].send(said)]})


async def post_refund_by_key(request: web.Request) -> web.StreamResponse:
    """Refund the charge of the key in the path."""
    own_key(request)
    return refund(request, request.match_info["key"])


async def post_refund(request: web.Request) -> web.StreamResponse:
    """Refund a charge named by its key, its id, or both; 404 for an unknown id."""
    own_key(request)
    body = decode(await request.read(), RefundBody)
    key = body.key
    if body.charge_id is not None:
        charged = request.app[BOOKS].by_charge_id(body.charge_id)
        if charged is None:
            raise problem(web.HTTPNotFound, "there is no charge of that id", "unknown_charge")
        if key is not None and key != charged.key:
            raise problem(web.HTTPUnprocessableEntity, "that charge was made under another key")
        key = charged.key
    if not key or len(key) > KEY_LENGTH_MAX:
        raise problem(web.HTTPBadRequest, "name a key, a charge_id, or both")
    return refund(request, key)


def refund(request: web.Request, key: str) -> web.StreamResponse:
    """Refund at most once; without a charge, close the key so that a late charge is refused."""
    books = request.app[BOOKS]
    entry = open_entry(request, key)
    own = own_key(request)
    if own in books.refunds:
        refunded, answer = books.refunds[own]
        if refunded != key:
            raise problem(web.HTTPUnprocessableEntity, "this key was used for another refund")
        return respond(answer, replayed=True)
    if request.app[SCRIPTS].strike(key, REFUND_SCRIPTS) is not ScriptName.OK:
        raise problem(web.HTTPPaymentRequired, "the refund was declined; the charge stands")
    amount = entry.refund()
    body = {"key": key, "charge_id": entry.charge_id, "refunded": amount, "standing": 0}
    books.refunds[own] = key, Answer(200, msgspec.json.encode(body))
    return respond(books.refunds[own][1], replayed=False)


async def put_script(request: web.Request) -> web.Response:
    """Behave as the body says from now on, and answer with all scripts that stand."""
    try:
        script = msgspec.json.decode(await request.read(), type=Script)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        names = ", ".join(ScriptName)
        raise problem(web.HTTPBadRequest, f"{error}: give a script of {names}") from None
    request.app[SCRIPTS].put(script)
    return await get_scripts(request)


async def get_scripts(request: web.Request) -> web.Response:
    """The scripts that stand, one for each match."""
    scripts = request.app[SCRIPTS]
    return web.json_response({"scripts": [msgspec.to_builtins(script) for script in scripts]})


def own_key(request: web.Request) -> str:
    """The idempotency key of the request itself. Raises `HTTPBadRequest`."""
    key = request.headers.get(IDEMPOTENCY_KEY, "")
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise problem(
            web.HTTPBadRequest, f"send {IDEMPOTENCY_KEY}: 1 to {KEY_LENGTH_MAX} characters"
        )
    return key


def open_entry(request: web.Request, key: str) -> Entry:
    """The entry of a key, with this request noted. Raises `HTTPServiceUnavailable`."""
    try:
        entry = request.app[BOOKS].entry(key)
    except BooksFullError:
        raise problem(web.HTTPServiceUnavailable, "the books are full") from None
    entry.remember(seen(request))
    return entry


def seen(request: web.Request) -> Seen:
    """The line of the books about this request."""
    return Seen(request.method, request.path, request.headers.get("traceparent"))


def decode(raw: bytes, kind: type[T]) -> T:
    """A JSON body as a typed value. Raises `HTTPBadRequest` that says what is wrong."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problem(web.HTTPBadRequest, str(error)) from None


def respond(answer: Answer, *, replayed: bool) -> web.Response:
    """A stored answer, byte for byte, with a header if it is `replayed`."""
    headers = {IDEMPOTENCY_REPLAYED: "true"} if replayed else {}
    return web.Response(
        status=answer.status, body=answer.body, content_type="application/json", headers=headers
    )


def problem(kind: type[web.HTTPError], text: str, code: str = "") -> web.HTTPError:
    """An error to raise: `{"error": text}` under the HTTP code of its class.

    `code` is the provider's own word for a case that callers tell apart: gateways give the same
    HTTP codes.
    """
    said = {"error": text} | ({"code": code} if code else {})
    return kind(text=msgspec.json.encode(said).decode(), content_type="application/json")
