"""Services measured beside the stage: the same answers, and the writes that each promises."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from benchmarks.contestants import (
    CEILING,
    CEILING_TRANSPORT,
    GROUPED_TRANSPORT,
    HANDWRITTEN,
    Contestant,
    Place,
    running,
)
from benchmarks.processes import cpu_seconds, tree_cpu_seconds
from benchmarks.spans import counting, served_in
from tests.acceptance.gateway.nginx import NGINX

ORDER = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
EXPECTED = {"payment": {"charge_id": "c-1"}, "shipping": {"parcel": "p-1"}}
SAGAS = 30


async def _charge(request: web.Request) -> web.Response:
    return web.json_response({"id": "c-1"} if (await request.json())["amount"] == 100 else {})


async def _downstream(request: web.Request) -> web.Response:
    handed_on = (await request.json())["data"]
    assert {"charge_id": "c-1"} == handed_on["payment"]
    return web.json_response({"outcome": "executed", "data": {"shipping": {"parcel": "p-1"}}})


@asynccontextmanager
async def neighbours(clients: set[str] | None = None) -> AsyncIterator[str]:
    """The external API and downstream; `clients` gets the names by which it was called."""

    async def note(request: web.Request, _: web.StreamResponse) -> None:
        if clients is not None:
            clients.add(request.headers["User-Agent"].partition("/")[0])

    app = web.Application()
    app.on_response_prepare.append(note)
    app.router.add_post("/charges", _charge)
    app.router.add_post("/sagas", _downstream)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def answers(url: str) -> list[object]:
    """The answers of that many sagas, all sent at once."""
    async with aiohttp.ClientSession() as session:
        return await asyncio.gather(*(post(session, url, f"s-{n}") for n in range(SAGAS)))


async def post(session: aiohttp.ClientSession, url: str, saga_id: str) -> object:
    """The data of the answer, or another status than 200."""
    body = {"saga_id": saga_id, "data": dict(ORDER)}
    async with session.post(f"{url}/sagas", json=body) as response:
        return (await response.json())["data"] if response.status == 200 else response.status


@pytest.mark.blocking
@pytest.mark.parametrize("each, client", [(CEILING, "Python"), (CEILING_TRANSPORT, "stage")])
async def test_the_ceiling_makes_both_calls_through_its_client(
    tmp_path: Path, each: Contestant, client: str
) -> None:
    """The answer is that of the stage."""
    clients: set[str] = set()
    async with neighbours(clients) as outside:
        with running(each, Place(folder=tmp_path, neighbours=outside)) as service:
            assert [EXPECTED] * SAGAS == await answers(service.url)
    assert {client} == clients


@pytest.mark.blocking
@pytest.mark.parametrize("each", [HANDWRITTEN, GROUPED_TRANSPORT], ids=lambda each: each.name)
async def test_the_handler_writes_before_and_after_the_charge(
    tmp_path: Path, each: Contestant
) -> None:
    """In either form: all rows are there, charged. A write that fails keeps nobody waiting."""
    async with neighbours() as outside:
        with running(each, Place(folder=tmp_path, neighbours=outside)) as service:
            assert [EXPECTED] * SAGAS == await answers(service.url)
            async with aiohttp.ClientSession() as session:
                assert 500 == await post(session, service.url, "s-1")
                assert EXPECTED == await post(session, service.url, "s-new")
    with closing(sqlite3.connect(tmp_path / "handwritten.db")) as database:
        rows = database.execute("SELECT state, charge_id, count(*) FROM payment GROUP BY 1, 2")
        assert [("charged", "c-1", SAGAS + 1)] == rows.fetchall()
        assert ("wal",) == database.execute("PRAGMA journal_mode").fetchone()


def test_the_collector_counts_what_was_served_and_nothing_else() -> None:
    """In what the SDK encodes."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for scope in ("one", "two"):
        tracer = provider.get_tracer(scope)
        for kind in (SpanKind.SERVER, SpanKind.CLIENT, SpanKind.CLIENT, SpanKind.INTERNAL):
            with tracer.start_as_current_span("POST /sagas", kind=kind) as span:
                span.set_attribute("share", 0.5)
    body = encode_spans(exporter.get_finished_spans()).SerializeToString()
    assert 2 == served_in(body)
    assert 0 == served_in(b"")


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_the_collector_keeps_what_it_is_sent(tmp_path: Path) -> None:
    """Each request of an exporter is answered, and read once all is measured."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("one").start_span("POST /sagas", kind=SpanKind.SERVER).end()
    body = encode_spans(exporter.get_finished_spans()).SerializeToString()
    assert NGINX is not None
    with counting(NGINX, tmp_path) as spans:
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                async with session.post(f"{spans.url}/v1/traces", data=body) as answer:
                    assert 200 == answer.status
        assert 3 == spans.served()


CHILD = "import os\nwhile sum(os.times()[:2]) < 0.2: pass\nprint(flush=True)\ninput()"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {CHILD!r}])"


@contextmanager
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, with a child that has used 0.2 s of a processor."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        process.stdout.readline()
        yield process
        process.stdin.close()


def test_the_time_of_a_process_is_that_of_its_children_too() -> None:
    """Workers and the sessions of a database server are processes of their own."""
    with parent() as process:
        alone, together = cpu_seconds(process.pid), tree_cpu_seconds(process.pid)
        assert together >= alone + 0.19
    assert 0.0 == tree_cpu_seconds(process.pid)
