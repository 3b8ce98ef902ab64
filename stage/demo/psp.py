"""The external API of the demo: a payment provider that keeps its own books and can misbehave.

    python -m stage.demo.psp --port 8090

It stands for the world outside the chain. It knows no saga: a charge is named by the
`Idempotency-Key` that made it, and the books count what really happened, so that a test can ask
the world and not our journal.

| Method and path                     | What it does                                              |
|-------------------------------------|-----------------------------------------------------------|
| `POST /charges`                     | charge `{"amount": 100}` under an `Idempotency-Key`       |
| `GET /charges`                      | the books: one entry a key, and totals                    |
| `GET /charges/by-key/{key}`         | the charge made under a key, or 404                       |
| `POST /charges/by-key/{key}/refund` | give it back; a key never seen is closed for ever (410)   |
| `POST /refunds`                     | the same, by `{"key": ..., "charge_id": ...}`             |
| `PUT /script`, `GET /script`        | misbehave from now on: see `Script`                       |

It can be read alone: of ours it uses nothing but the set-up of its traces.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import sdk

T = TypeVar("T")

SUMMARY = "A payment provider that keeps its own books and can misbehave."
BODY_BYTES_MAX = 1024 * 1024
KEY_LENGTH_MAX = 512
KEYS_MAX = 100_000
"""The books are kept in memory: one that is full says so (503), it never forgets a charge."""
GONE_POLL_SECONDS = 0.02
"""How often a hanging request looks whether its client went away."""
SHUTDOWN_SECONDS = 0.2
SEEN_MAX = 100
"""Requests remembered one by one under a key; those before are only counted."""

IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_REPLAYED = "Idempotency-Replayed"


class ScriptName(StrEnum):
    """How the provider behaves."""

    OK = "ok"
    REFUSE = "refuse"
    """Charging is answered 402, and nothing happens."""
    ERROR = "error"
    """Charging is answered 500, and nothing happens."""
    HANG = "hang"
    """Charging is never answered, and nothing happens."""
    EFFECT_THEN_HANG = "effect-then-hang"
    """The charge is made, and never answered."""
    EFFECT_THEN_DROP = "effect-then-drop"
    """The charge is made, and the connection is broken before the answer."""
    REFUND_FAILS = "refund-fails"
    """Refunding is answered 402, and nothing happens."""


CHARGE_SCRIPTS = frozenset(ScriptName) - {ScriptName.OK, ScriptName.REFUND_FAILS}
ONCE = frozenset({ScriptName.EFFECT_THEN_HANG, ScriptName.EFFECT_THEN_DROP})
"""Scripts that strike one request and are over, unless `times` says otherwise."""


class Script(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `PUT /script`. It stands until replaced by one of the same `match`."""

    script: ScriptName
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many requests misbehave before all is well again; None: all, or one if in ONCE."""
    match: str = ""
    """Only keys that contain this. Of several scripts the one with the longest match holds."""


class ChargeBody(msgspec.Struct):
    """The body of `POST /charges`; other members are let through."""

    amount: Annotated[int, msgspec.Meta(gt=0)]


class RefundBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /refunds`: the key of the charge, its id, or both."""

    key: str | None = None
    charge_id: str | None = None


class Seen(msgspec.Struct, frozen=True):
    """One request that arrived, and the trace it belongs to."""

    method: str
    path: str
    traceparent: str | None


class Answer(msgspec.Struct, frozen=True):
    """What was answered, kept as bytes so that a repeat gets the same ones."""

    status: int
    body: bytes


class Entry(msgspec.Struct):
    """All that happened under one key."""

    key: str
    amount: int = 0
    charge_id: str | None = None
    made: int = 0
    refunded: int = 0
    closed: bool = False
    """Refunded before it was charged: a tombstone, a late charge is refused."""
    asked: Any = None
    """The decoded body of the first charge request that was answered or had its effect."""
    answer: Answer | None = None
    requests: int = 0
    seen: list[Seen] = []

    @property
    def standing(self) -> int:
        """How many charges under this key are not given back."""
        return self.made - self.refunded

    def told(self) -> dict[str, Any]:
        """The entry as the books show it."""
        return {
            "key": self.key,
            "amount": self.amount,
            "charge_id": self.charge_id,
            "made": self.made,
            "refunded": self.refunded,
            "standing": self.standing,
            "closed": self.closed,
            "requests": self.requests,
            "seen": [msgspec.to_builtins(seen) for seen in self.seen],
        }


class Books:
    """What really happened, by key; the scripts; and the answers to refunds, by their own key."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.refunds: dict[str, tuple[str, Answer]] = {}
        self.scripts: dict[str, Script] = {}
        self._charges = 0

    def entry(self, key: str) -> Entry:
        """The entry of a key, opened when there is none. Raises `HTTPServiceUnavailable`."""
        if key not in self.entries:
            if len(self.entries) >= KEYS_MAX:
                raise problem(web.HTTPServiceUnavailable, "the books are full")
            self.entries[key] = Entry(key)
        return self.entries[key]

    def by_charge_id(self, charge_id: str) -> Entry | None:
        """The entry in which a charge stands."""
        found = (entry for entry in self.entries.values() if entry.charge_id == charge_id)
        return next(found, None)

    def charge(self, entry: Entry, amount: int) -> None:
        """Make the charge. This is the effect that the world remembers."""
        self._charges += 1
        entry.amount = amount
        entry.charge_id = f"ch_{self._charges:06d}"
        entry.made += 1

    def put_script(self, script: Script) -> None:
        """Let a script stand for the keys it matches."""
        if script.times is None and script.script in ONCE:
            script.times = 1
        self.scripts[script.match] = script

    def strike(self, key: str, scripts: frozenset[ScriptName]) -> ScriptName:
        """The script that this request meets; of a script with `times`, one is used up."""
        matching = [match for match in self.scripts if match in key]
        if not matching:
            return ScriptName.OK
        script = self.scripts[max(matching, key=len)]
        if script.script not in scripts or script.times == 0:
            return ScriptName.OK
        if script.times is not None:
            script.times -= 1
        return script.script

    def totals(self) -> dict[str, int]:
        """The sums over all keys."""
        entries = self.entries.values()
        return {
            "made": sum(entry.made for entry in entries),
            "refunded": sum(entry.refunded for entry in entries),
            "standing": sum(entry.standing for entry in entries),
            "amount_standing": sum(entry.amount * entry.standing for entry in entries),
            "requests": sum(entry.requests for entry in entries),
        }


BOOKS = web.AppKey("BOOKS", Books)
TRACER = web.AppKey("TRACER", otel.Tracer)
W3C = TraceContextTextMapPropagator()


def make_app(tracer_provider: otel.TracerProvider | None = None) -> web.Application:
    """The provider with empty books, behaving well. Without a tracer provider: the process's."""
    app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[traced])
    app[TRACER] = otel.get_tracer("psp", tracer_provider=tracer_provider)
    app[BOOKS] = Books()
    app.add_routes(
        [
            web.post("/charges", post_charge),
            web.get("/charges", get_books),
            web.get("/charges/by-key/{key:.+}", get_charge),
            web.post("/charges/by-key/{key:.+}/refund", post_refund_by_key),
            web.post("/refunds", post_refund),
            web.put("/script", put_script),
            web.get("/script", get_scripts),
        ]
    )
    return app


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A server span around every request, in the trace that its headers name."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    with request.app[TRACER].start_as_current_span(
        f"{request.method} {route}".rstrip(),
        context=W3C.extract(request.headers, Context()),
        kind=otel.SpanKind.SERVER,
        attributes={"http.request.method": request.method, "http.route": route},
        # An answer by exception is an answer.
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        status = 500
        try:
            response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        finally:
            if request.transport is None or request.transport.is_closing():
                span.set_attribute("error.type", "client_gone")
            else:
                span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR))


async def post_charge(request: web.Request) -> web.StreamResponse:
    """Charge once a key: 201, or 402 by script; 410 closed; 422 another body under the key."""
    books = request.app[BOOKS]
    key = own_key(request)
    entry = books.entry(key)
    remember(entry, request)
    raw = await request.read()
    body, asked = decode(raw, ChargeBody), decode(raw, dict)

    if entry.asked is not None and entry.asked != asked:
        raise problem(web.HTTPUnprocessableEntity, "this key was used with another body")
    script = books.strike(key, CHARGE_SCRIPTS)
    if script is ScriptName.HANG:
        return await hang(request)
    if script is ScriptName.ERROR:
        raise problem(web.HTTPInternalServerError, "the provider fell over; nothing happened")

    replayed = entry.answer is not None
    if entry.answer is None:
        if entry.closed:
            raise problem(web.HTTPGone, "this key was refunded before it was charged")
        entry.asked = asked
        entry.answer = decide(books, entry, body.amount, refuse=script is ScriptName.REFUSE)
    if script is ScriptName.EFFECT_THEN_HANG:
        return await hang(request)
    if script is ScriptName.EFFECT_THEN_DROP:
        return drop(request)
    return give(entry.answer, replayed=replayed)


def decide(books: Books, entry: Entry, amount: int, *, refuse: bool) -> Answer:
    """The answer to the first charge under a key: made, or declined with nothing done."""
    if refuse:
        return Answer(402, encode({"error": "card declined", "key": entry.key}))
    books.charge(entry, amount)
    return Answer(201, encode({"id": entry.charge_id, "amount": amount, "key": entry.key}))


async def get_books(request: web.Request) -> web.Response:
    """The books: `{"charges": [...], "totals": {...}}`, keys in the order they were first seen."""
    books = request.app[BOOKS]
    charges = [entry.told() for entry in books.entries.values()]
    return web.json_response({"charges": charges, "totals": books.totals()})


async def get_charge(request: web.Request) -> web.Response:
    """The charge made under a key, refunded or not; 404 when none was."""
    entry = request.app[BOOKS].entries.get(request.match_info["key"])
    if entry is None or entry.charge_id is None:
        raise problem(web.HTTPNotFound, "no charge was made under this key")
    remember(entry, request)
    return web.json_response(
        {
            "id": entry.charge_id,
            "amount": entry.amount,
            "key": entry.key,
            "refunded": entry.standing == 0,
        }
    )


async def post_refund_by_key(request: web.Request) -> web.StreamResponse:
    """Give back what was charged under the key in the path."""
    own_key(request)
    return refund(request, request.match_info["key"])


async def post_refund(request: web.Request) -> web.StreamResponse:
    """Give back what was charged under a key or as a charge; 404 for a charge id unknown."""
    own_key(request)
    body = decode(await request.read(), RefundBody)
    key = body.key
    if body.charge_id is not None:
        charged = request.app[BOOKS].by_charge_id(body.charge_id)
        if charged is None:
            raise problem(web.HTTPNotFound, "there is no charge of that id")
        if key is not None and key != charged.key:
            raise problem(web.HTTPUnprocessableEntity, "that charge was made under another key")
        key = charged.key
    if not key or len(key) > KEY_LENGTH_MAX:
        raise problem(web.HTTPBadRequest, "name a key, a charge_id, or both")
    return refund(request, key)


def refund(request: web.Request, key: str) -> web.StreamResponse:
    """Refund at most once; without a charge, close the key so that a late one is refused."""
    books = request.app[BOOKS]
    entry = books.entry(key)
    remember(entry, request)
    own = own_key(request)
    if own in books.refunds:
        refunded, answer = books.refunds[own]
        if refunded != key:
            raise problem(web.HTTPUnprocessableEntity, "this key was used for another refund")
        return give(answer, replayed=True)
    if books.strike(key, frozenset({ScriptName.REFUND_FAILS})) is not ScriptName.OK:
        raise problem(web.HTTPPaymentRequired, "the refund was declined; the charge stands")
    given_back = entry.standing * entry.amount
    entry.closed = entry.closed or not entry.made
    entry.refunded = entry.made
    told = {"key": key, "charge_id": entry.charge_id, "refunded": given_back, "standing": 0}
    books.refunds[own] = key, Answer(200, encode(told))
    return give(books.refunds[own][1], replayed=False)


async def put_script(request: web.Request) -> web.Response:
    """Behave as the body says from now on, and answer with all scripts that stand."""
    request.app[BOOKS].put_script(decode(await request.read(), Script))
    return await get_scripts(request)


async def get_scripts(request: web.Request) -> web.Response:
    """The scripts that stand, one a match."""
    scripts = request.app[BOOKS].scripts.values()
    return web.json_response({"scripts": [msgspec.to_builtins(script) for script in scripts]})


def own_key(request: web.Request) -> str:
    """The idempotency key of the request itself. Raises `HTTPBadRequest`."""
    key = request.headers.get(IDEMPOTENCY_KEY, "")
    if not 0 < len(key) <= KEY_LENGTH_MAX:
        raise problem(
            web.HTTPBadRequest, f"send {IDEMPOTENCY_KEY}: 1 to {KEY_LENGTH_MAX} characters"
        )
    return key


def remember(entry: Entry, request: web.Request) -> None:
    """Note that a request arrived for this key, and under which trace."""
    traceparent = request.headers.get("traceparent")
    entry.requests += 1
    entry.seen.append(Seen(request.method, request.path, traceparent))
    del entry.seen[:-SEEN_MAX]


async def hang(request: web.Request) -> web.Response:
    """Say nothing until the client goes away (or the provider stops, which cancels this)."""
    # A loop that asks, because there is no event: aiohttp tells a handler of a lost client in no
    # other way than by cancelling it.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(GONE_POLL_SECONDS)
    return web.Response(status=500)


def drop(request: web.Request) -> web.Response:
    """Break the connection; the answer returned here has nobody to reach."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def decode(raw: bytes, kind: type[T]) -> T:
    """A JSON body as a typed value. Raises `HTTPBadRequest` that says where it is wrong."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise problem(web.HTTPBadRequest, str(error)) from None


def encode(value: object) -> bytes:
    """A value as JSON."""
    return msgspec.json.encode(value)


def give(answer: Answer, *, replayed: bool) -> web.Response:
    """A stored answer, byte for byte; a repeat of it says so."""
    headers = {IDEMPOTENCY_REPLAYED: "true"} if replayed else {}
    return web.Response(
        status=answer.status, body=answer.body, content_type="application/json", headers=headers
    )


def problem(kind: type[web.HTTPError], text: str) -> web.HTTPError:
    """An error to raise: `{"error": text}` under the code of its class."""
    return kind(text=encode({"error": text}).decode(), content_type="application/json")


async def serve(app: web.Application, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Port 0 takes a free one; the line printed names it."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        print(f"listening on http://{host}:{runner.addresses[0][1]}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and serve. 2 when the port cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m stage.demo.psp", description=SUMMARY)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one (%(default)s)")
    parser.add_argument(
        "--otlp-endpoint", default="", metavar="URL", help="base URL of an OTLP/HTTP collector"
    )
    options = parser.parse_args(arguments)
    sdk.setup("psp", endpoint=options.otlp_endpoint)
    try:
        asyncio.run(serve(make_app(), options.host, options.port))
    except (OSError, OverflowError) as error:
        print(f"psp: cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 2
    finally:
        sdk.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
