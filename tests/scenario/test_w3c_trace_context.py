"""W3C Trace Context through a real stage: the 41 cases of the working group's validator, by name.

The working group's harness (test/test.py of the specification's repository) sends headers to a
service and looks at what the service sends on. Each case here has the name of theirs; what is
sent goes out as raw bytes, so that space around values and repeated headers arrive as written.
The saga runs with any headers: trace context is never a reason for a 4xx.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Http, Saga, Stage
from stage.bootstrap import build_app
from stage.config import Config
from stage.testing import SpanCollector
from tests.kits import Strikes

HOST = "127.0.0.1"
TRACE = "12345678901234567890123456789012"
OTHER = "12345678901234567890123456789011"
SPAN = "1234567890123456"
ZEROS = "0" * 32
PARENT = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = f"00-{TRACE}-{SPAN}-00"
FUTURE = "what-the-future-will-be-like"
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
SENT_ON = 3

Headers = tuple[tuple[str, str], ...]


class Case(NamedTuple):
    """One request: its headers, whether its trace is joined, and the tracestate that is sent on."""

    headers: Headers
    joined: bool
    tracestate: str = ""


def parent(*values: str, joined: bool) -> list[Case]:
    """A request a value, each with one traceparent."""
    return [Case((("traceparent", value),), joined) for value in values]


def state(*values: str, kept: str, name: str = "tracestate") -> Case:
    """A request in a valid trace with these tracestate headers."""
    states = tuple((name, value) for value in values)
    return Case((("traceparent", UNSAMPLED), *states), True, kept)


def members(first: int, last: int) -> str:
    return ",".join(f"bar{number:02}={number:02}" for number in range(first, last + 1))


LOWER = "abcdefghijklmnopqrstuvwxyz"
KEY = f"{LOWER}0123456789_-*/"
VALUE = "".join(
    chr(code) for low, high in ((0x20, 0x2B), (0x2D, 0x3C), (0x3E, 0x7E))
    for code in range(low, high + 1)
)  # fmt: skip
THIRTY = members(1, 10), members(11, 20), members(21, 30)

CASES: dict[str, list[Case]] = {
    # --- traceparent ---
    "both_traceparent_and_tracestate_missing": [Case((), False)],
    "traceparent_included_tracestate_missing": parent(PARENT, joined=True),
    "traceparent_duplicated": [
        Case((("traceparent", f"00-{OTHER}-{SPAN}-01"), ("traceparent", PARENT)), False)
    ],
    "traceparent_header_name": [
        Case(((name, PARENT),), False) for name in ("trace-parent", "trace.parent")
    ],
    "traceparent_header_name_valid_casing": [
        Case(((name, PARENT),), True) for name in ("TraceParent", "TrAcEpArEnT", "TRACEPARENT")
    ],
    "traceparent_version_0x00": parent(f"{PARENT}.", f"{PARENT}-{FUTURE}", joined=False),
    "traceparent_version_0xcc": [
        *parent(f"cc{PARENT[2:]}", f"cc{PARENT[2:]}-{FUTURE}", joined=True),
        *parent(f"cc{PARENT[2:]}.{FUTURE}", joined=False),
    ],
    "traceparent_version_0xff": parent(f"ff{PARENT[2:]}", joined=False),
    "traceparent_version_illegal_characters": parent(
        f".0{PARENT[2:]}", f"0.{PARENT[2:]}", joined=False
    ),
    "traceparent_version_too_long": parent(f"0{PARENT}", f"00{PARENT}", joined=False),
    "traceparent_version_too_short": parent(PARENT[1:], joined=False),
    "traceparent_trace_id_all_zero": parent(f"00-{ZEROS}-{SPAN}-01", joined=False),
    "traceparent_trace_id_illegal_characters": parent(
        f"00-.{TRACE[1:]}-{SPAN}-01", f"00-{TRACE[:-1]}.-{SPAN}-01", joined=False
    ),
    "traceparent_trace_id_too_long": parent(f"00-{TRACE}3-{SPAN}-01", joined=False),
    "traceparent_trace_id_too_short": parent(f"00-{TRACE[:-1]}-{SPAN}-01", joined=False),
    "traceparent_parent_id_all_zero": parent(f"00-{TRACE}-{'0' * 16}-01", joined=False),
    "traceparent_parent_id_illegal_characters": parent(
        f"00-{TRACE}-.{SPAN[1:]}-01", f"00-{TRACE}-{SPAN[:-1]}.-01", joined=False
    ),
    "traceparent_parent_id_too_long": parent(f"00-{TRACE}-{SPAN}7-01", joined=False),
    "traceparent_parent_id_too_short": parent(f"00-{TRACE}-{SPAN[:-1]}-01", joined=False),
    "traceparent_trace_flags_illegal_characters": parent(
        f"00-{TRACE}-{SPAN}-.0", f"00-{TRACE}-{SPAN}-0.", joined=False
    ),
    "traceparent_trace_flags_too_long": parent(f"00-{TRACE}-{SPAN}-001", joined=False),
    "traceparent_trace_flags_too_short": parent(f"00-{TRACE}-{SPAN}-1", joined=False),
    "traceparent_ows_handling": parent(
        f" {PARENT}", f"\t{PARENT}", f"{PARENT} ", f"{PARENT}\t", f"\t {PARENT} \t", joined=True
    ),
    # --- tracestate ---
    "tracestate_included_traceparent_missing": [
        Case((("tracestate", value),), False) for value in ("foo=1", "foo=1,bar=2")
    ],
    "tracestate_included_traceparent_included": [state("foo=1,bar=2", kept="foo=1,bar=2")],
    "tracestate_header_name": [
        state("foo=1", kept="", name="trace-state"),
        state("foo=1", kept="", name="trace.state"),
    ],
    "tracestate_header_name_valid_casing": [
        state("foo=1", kept="foo=1", name=name)
        for name in ("TraceState", "TrAcEsTaTe", "TRACESTATE")
    ],
    "tracestate_empty_header": [
        state("", kept=""),
        state("foo=1", "", kept="foo=1"),
        state("", "foo=1", kept="foo=1"),
    ],
    "tracestate_multiple_headers_different_keys": [
        state("foo=1,bar=2", "rojo=1,congo=2", "baz=3", kept="foo=1,bar=2,rojo=1,congo=2,baz=3")
    ],
    "tracestate_duplicated_keys": [
        state("foo=1,foo=1", kept="foo=1"),
        state("foo=1,foo=2", kept="foo=1"),
        state("foo=1", "foo=1", kept="foo=1"),
        state("foo=1", "foo=2", kept="foo=1"),
    ],
    "tracestate_all_allowed_characters": [
        state(f"{KEY}={VALUE}", kept=f"{KEY}={VALUE}"),
        state(f"{KEY}@a-z0-9_-*/={VALUE}", kept=f"{KEY}@a-z0-9_-*/={VALUE}"),
    ],
    "tracestate_ows_handling": [
        state("foo=1 \t , \t bar=2, \t baz=3", kept="foo=1,bar=2,baz=3"),
        state("foo=1\t \t,\t \tbar=2,\t \tbaz=3", kept="foo=1,bar=2,baz=3"),
        *(
            state(value, kept="foo=1")
            for value in (" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t")
        ),
    ],
    "tracestate_key_illegal_characters": [
        state(value, kept="") for value in ("foo =1", "FOO=1", "foo.bar=1")
    ],
    "tracestate_key_illegal_vendor_format": [
        state(f"{value},bar=2", kept="") for value in ("foo@=1", "@foo=1", "foo@@bar=1", "a@b@c=1")
    ],
    "tracestate_member_count_limit": [
        state(*THIRTY, members(31, 32), kept=members(1, 32)),
        state(*THIRTY, members(31, 33), kept=""),
    ],
    "tracestate_key_length_limit": [
        state("foo=1", f"{'z' * 256}=1", kept=f"foo=1,{'z' * 256}=1"),
        state("foo=1", f"{'z' * 257}=1", kept=""),
        state("foo=1", f"{'t' * 241}@{'v' * 14}=1", kept=f"foo=1,{'t' * 241}@{'v' * 14}=1"),
        state("foo=1", f"{'t' * 242}@v=1", kept=""),
        state("foo=1", f"t@{'v' * 15}=1", kept=""),
    ],
    "tracestate_value_illegal_characters": [
        state("foo=bar=baz", kept=""),
        state("foo=,bar=3", kept=""),
    ],
    # --- several requests for one; and level 2 ---
    "multiple_requests_with_valid_traceparent": parent(PARENT, joined=True),
    "multiple_requests_without_traceparent": [Case((), False)],
    "multiple_requests_with_illegal_traceparent": parent(f"00-{ZEROS}-{SPAN}-01", joined=False),
    "propagates_random_flag": parent(f"00-{TRACE}-{SPAN}-02", f"00-{TRACE}-{SPAN}-03", joined=True),
}


class Relay:
    """A stage that calls three times, and what it sent on."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, str]]] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        """The API that is called."""
        raw = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        self.seen.append([(name.lower(), value) for name, value in raw])
        return web.json_response({})

    async def send(self, saga_id: str, headers: Headers) -> tuple[int, list[list[tuple[str, str]]]]:
        """`POST /sagas` with these headers as they are written; the code, and what was sent on."""
        self.seen.clear()
        body = msgspec.json.encode({"saga_id": saga_id, "data": {"order_id": "o-1"}})
        lines = [
            "POST /sagas HTTP/1.1",
            f"Host: {HOST}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers),
        ]
        reader, writer = await asyncio.open_connection(HOST, self.port)
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1]), list(self.seen)


class Order(msgspec.Struct):
    """The payload that the stage accepts."""

    order_id: str


def relay_stage() -> Stage[Any, Any]:
    """Three calls, one after the other."""
    stage: Stage[Any, Any] = Stage("relay", accepts=Order)

    async def ask(http: Http, saga: Saga[Order]) -> None:
        await http.post("/", json={})

    for number in range(SENT_ON):
        ask.__name__ = f"ask{number}"
        stage.call(to="peer", compensation=None, reason="it leaves nothing")(ask)
    return stage


@asynccontextmanager
async def running_relay(*, traced: bool = True, **options: Any) -> AsyncIterator[Relay]:
    """It makes spans of its own, if it is traced: what it sends on names them."""
    relay = Relay()
    async with AsyncExitStack() as stack:
        peer = web.Application()
        peer.router.add_post("/", relay.take)
        api = await stack.enter_async_context(TestServer(peer, host=HOST))
        config = Config(
            auth="none",
            database="sqlite:///:memory:",
            externals={"peer": f"http://{HOST}:{api.port}"},
            **options,
        )
        provider = SpanCollector().provider if traced else None
        app = build_app(relay_stage(), config, tracer_provider=provider)
        server = await stack.enter_async_context(TestServer(app, host=HOST))
        assert server.port is not None
        relay.port = server.port
        yield relay


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    async with running_relay() as relay:
        yield relay


def valued(headers: list[tuple[str, str]], name: str) -> list[str]:
    return [value for header, value in headers if header == name]


def test_every_case_of_the_validator_is_here() -> None:
    """As many as it has."""
    assert 41 == len(CASES)


@pytest.mark.kit("F15")
@pytest.mark.parametrize("name", CASES)
async def test_every_request_that_leaves_has_one_valid_traceparent(
    name: str, relay: Relay, strikes: Strikes
) -> None:
    """One valid traceparent on every request that leaves, each with a span id of its own."""
    for number, case in enumerate(CASES[name]):
        status, sent_on = await relay.send(f"s-{number}", case.headers)
        assert (200, SENT_ON) == (status, len(sent_on)), case
        span_ids = set()
        for headers in sent_on:
            (traceparent,) = valued(headers, "traceparent")
            found = TRACEPARENT.fullmatch(traceparent)
            assert found is not None, traceparent
            trace_id, span_id, flags = found.groups()
            assert int(trace_id, 16) and int(span_id, 16) and span_id != SPAN
            span_ids.add(span_id)
            came = " ".join(value for _, value in case.headers)
            assert (trace_id == TRACE) if case.joined else (trace_id not in came), case
            assert case.tracestate == ",".join(valued(headers, "tracestate")), case
            assert len(valued(headers, "tracestate")) == (1 if case.tracestate else 0)
            if case.joined:  # the sampled flag, and the random one of level 2
                came_flags = came.partition(f"{SPAN}-")[2][:2]
                assert came_flags == flags, case
        assert SENT_ON == len(span_ids)
    strikes.report("cases", 1)


async def test_baggage_is_not_sent_on(relay: Relay) -> None:
    """Otherwise a stranger's baggage would reach every peer."""
    headers = (("traceparent", PARENT), ("baggage", "user=kim,secret=4111"))
    status, sent_on = await relay.send("s-1", headers)
    assert 200 == status
    assert [[]] * SENT_ON == [valued(each, "baggage") for each in sent_on]


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "not traced"])
@pytest.mark.parametrize("named", [True, False], ids=["in a trace", "in none"])
async def test_baggage_is_sent_on_where_it_is_allowed(traced: bool, named: bool) -> None:
    """The members on the list and no others, to every peer."""
    headers: Headers = (
        ("baggage", "user=kim,tenant=a"),
        ("Baggage", "region=eu;ttl=1,secret=4111"),
    )
    if named:
        headers = (*headers, ("traceparent", PARENT))
    async with running_relay(traced=traced, baggage_keys="tenant,region") as relay:
        status, sent_on = await relay.send("s-1", headers)
    assert 200 == status
    assert [["tenant=a,region=eu;ttl=1"]] * SENT_ON == [valued(each, "baggage") for each in sent_on]
