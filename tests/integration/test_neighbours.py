"""Neighbours in another language, written from the page alone, around a real stage.

Their books say what stands at them, those of the external API what stands there.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import TestServer
from yarl import URL

from stage.demo.chain import free_ports
from stage.neighbours.conformance.caller import Caller
from stage.neighbours.conformance.laws import LAWS
from stage.neighbours.shared.tokens import Keys
from stage.wire.envelope import format_instant
from tests.scenario.chain import HOST, Chain, running_chain
from tests.unit.stubs.conftest import FakeStage, Reply

HERE = Path(__file__).parents[2] / "examples" / "neighbours"
NODE = shutil.which("node")
SECONDS_MAX = 30.0

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


class Neighbour:
    """One process of node, with its books in a file."""

    def __init__(self, script: str, name: str, port: int, stage: str, books: Path) -> None:
        self.url = f"http://{HOST}:{port}"
        self._command = [str(HERE / script), str(port), name, stage, str(books)]
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Return once it listens."""
        assert NODE is not None
        self._process = await asyncio.create_subprocess_exec(
            NODE, *self._command, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS_MAX):
            assert b"listening" in await self._process.stdout.readline()

    async def kill(self) -> None:
        """At once, without a chance to write anything."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()  # until its pipe is closed too


class Trio:
    """An order service and a shipping service in node, and the payment stage between them."""

    def __init__(self, chain: Chain, order: Neighbour, shipping: Neighbour) -> None:
        self.chain = chain
        self.order = order
        self.shipping = shipping

    async def buy(self, saga_id: str, order_id: str, budget_ms: int = 15_000) -> dict[str, Any]:
        """The row of an order that has ended."""
        data = {"order_id": order_id, "amount": 100, "currency": "KRW"}
        body = msgspec.json.encode({"id": saga_id, "data": data, "budget_ms": budget_ms})
        _, _, answer = await self.chain.request("POST", f"{self.order.url}/orders", body)
        row: dict[str, Any] = msgspec.json.decode(answer)
        return row

    async def row(self, neighbour: Neighbour, saga_id: str) -> dict[str, Any]:
        """One saga in its books."""
        rows = await self.chain.get(f"{neighbour.url}/books")
        return next((row for row in rows if row["id"] == saga_id), {})

    async def until(
        self, neighbour: Neighbour, saga_id: str, holds: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Its row, once that holds of it."""
        async with asyncio.timeout(SECONDS_MAX):
            while not holds(row := await self.row(neighbour, saga_id)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # it tells nobody
        return row


@asynccontextmanager
async def trio(folder: Path) -> AsyncIterator[Trio]:
    """Everything, until the end of the test."""
    ports = dict(zip(("order", "shipping"), free_ports(2), strict=True))

    def connect(name: str, url: str) -> str:
        return f"http://{HOST}:{ports[name]}" if name in ports else url

    async with (
        running_chain(folder, connect=connect) as chain,
        AsyncExitStack() as stack,
    ):
        found = []
        for name, script in (("order", "upstream.mjs"), ("shipping", "downstream.mjs")):
            books = folder / f"{name}.jsonl"
            neighbour = Neighbour(script, name, ports[name], chain.stage, books)
            stack.push_async_callback(neighbour.kill)
            await neighbour.start()
            found.append(neighbour)
        yield Trio(chain, *found)


@pytest.mark.parametrize(
    "kind, ordered, shipped",
    [("good", True, 1), ("slow", True, 1), ("break", True, 1), ("refuse", False, None)],
)
async def test_a_saga_stands_everywhere_or_nowhere(
    tmp_path: Path, kind: str, ordered: bool, shipped: int | None
) -> None:
    """A yes, a yes behind a 202, a yes whose answer was lost, and a no: each effect once."""
    async with trio(tmp_path) as three:
        row = await three.buy("s-1", f"{kind}-1")

        assert ordered is row["ordered"], row
        assert ("done" if ordered else "undone") == row["state"]
        assert (1, int(ordered)) == await three.chain.charges()
        there = await three.row(three.shipping, "s-1")
        assert (shipped, ordered) == (there.get("shipped"), there.get("parcel") is not None)
        if ordered:
            assert {"payment", "shipping"} == row["data"].keys()


async def test_a_failure_behind_the_yes_comes_back_to_the_head(tmp_path: Path) -> None:
    """Shipping tells the stage, and the stage the order service, each by its compensate."""
    async with trio(tmp_path) as three:
        row = await three.buy("s-1", "late-1")
        assert "done" == row["state"]

        await three.until(three.order, "s-1", lambda row: row["state"] == "undone")
        there = await three.until(three.shipping, "s-1", lambda row: row.get("tells") is False)
        assert (None, True) == (there["parcel"], there["told"] in (200, 202))
        assert (1, 0) == await three.chain.charges()


async def test_work_that_a_kill_cut_off_is_ended_by_the_next_start(tmp_path: Path) -> None:
    """A row that runs is nobody's but the neighbour's: the stage would be told 202 for ever."""
    async with trio(tmp_path) as three:
        buying = asyncio.create_task(three.buy("s-1", "slow-1"))
        await three.until(three.shipping, "s-1", lambda row: row.get("state") == "runs")
        await three.shipping.kill()
        await three.shipping.start()

        assert "done" == (await buying)["state"]
        assert 1 == (await three.row(three.shipping, "s-1"))["shipped"]
        assert (1, 1) == await three.chain.charges()


async def test_a_head_that_died_begins_again_in_doubt(tmp_path: Path) -> None:
    """A request that left before its death is found out under the same id."""
    async with trio(tmp_path) as three:
        buying = asyncio.create_task(three.buy("s-1", "slow-1"))
        await three.until(three.shipping, "s-1", lambda row: row.get("state") == "runs")
        await three.order.kill()
        await asyncio.gather(buying, return_exceptions=True)
        await three.order.start()

        row = await three.until(three.order, "s-1", lambda row: row["state"] != "active")
        assert ("done", True) == (row["state"], row["ordered"])
        assert (1, 1) == await three.chain.charges()


NOT_EXECUTED = b'{"outcome":"not_executed"}'
RUNS = b'{"outcome":"in_progress"}'
PAGE = b"<html>gateway</html>"


@pytest.mark.parametrize(
    "status, body, asks",
    [
        (202, RUNS, True),
        (503, NOT_EXECUTED, True),
        (429, NOT_EXECUTED, True),
        (504, PAGE, True),
        (409, PAGE, True),
        (400, b"", True),
        (200, b"OK", True),
        (200, b'{"saga_id":"s-2","outcome":"executed"}', True),
        (409, b'{"outcome":"executed"}', True),
        (409, NOT_EXECUTED, False),
        (422, b'{"saga_id":"s-1","outcome":"not_executed"}', False),
        (422, NOT_EXECUTED, True),
        (504, NOT_EXECUTED, False),
        (401, NOT_EXECUTED, True),
    ],
)
async def test_the_upstream_asks_to_compensate_where_something_may_stand(
    tmp_path: Path, status: int, body: bytes, asks: bool
) -> None:
    """A stage that answers the same until the budget ends; the order is taken back in any case."""
    stage, [port] = FakeStage(), free_ports(1)
    stage.says("POST /sagas", Reply(status, body))
    stage.says("GET /sagas/*", Reply(200, RUNS))
    stage.says("POST /sagas/*/compensate", Reply(200, b'{"outcome":"compensated"}'))
    async with TestServer(stage.app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        order = Neighbour("upstream.mjs", "order", port, url, tmp_path / "books")
        await order.start()
        try:
            # A no that is understood ends it; of anything else it asks until the budget is over.
            budget_ms = 500 if asks else 30_000
            sent = {"id": "s-1", "data": {}, "budget_ms": budget_ms}
            async with session.post(f"{order.url}/orders", json=sent) as answer:
                row = await answer.json()
        finally:
            await order.kill()

    assert ("undone", False) == (row["state"], row["ordered"])
    assert asks == bool(stage.requests("POST /sagas/*/compensate"))
    assert 1 == len({asked.body for asked in stage.requests("POST /sagas")})


async def test_the_upstream_looks_at_a_parked_saga_now_and_then(tmp_path: Path) -> None:
    """Its answer comes at once, in spite of `Prefer: wait`: the pauses are those of the caller."""
    stage, [port] = FakeStage(), free_ports(1)
    stage.says("POST /sagas", Reply(202, RUNS))
    stage.says("GET /sagas/*", Reply(200, RUNS))
    stage.says("POST /sagas/*/compensate", Reply(200, b'{"outcome":"compensated"}'))
    async with TestServer(stage.app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        order = Neighbour("upstream.mjs", "order", port, url, tmp_path / "books")
        await order.start()
        try:
            sent = {"id": "s-1", "data": {}, "budget_ms": 1_500}
            async with session.post(f"{order.url}/orders", json=sent) as answer:
                assert "undone" == (await answer.json())["state"]
        finally:
            await order.kill()
    # At 0, 0.2, 0.6 and 1.4 s, and once more where the last pause was cut by the budget.
    assert 1 <= len(stage.requests("GET /sagas/*")) <= 5
    assert 1 == len(stage.requests("POST /sagas"))


async def test_other_data_under_one_id_is_undone_where_it_stands(tmp_path: Path) -> None:
    """422 says `executed` there: with `not_executed` the parcel would stand for nobody."""
    async with trio(tmp_path) as three:
        other = {"saga_id": "s-1", "data": {"order_id": "another"}}
        sent = await three.chain.request(
            "POST", f"{three.shipping.url}/sagas", msgspec.json.encode(other)
        )
        assert 200 == sent[0]

        row = await three.buy("s-1", "good-1")

        assert "undone" == row["state"]
        assert (1, 0) == await three.chain.charges()
        assert (await three.row(three.shipping, "s-1"))["parcel"] is None


@pytest.mark.parametrize("kind", ["good", "slow", "break"])
async def test_the_downstream_keeps_the_laws(tmp_path: Path, kind: str) -> None:
    """Also where it works for a while, and where its answer is lost."""
    data = {"order_id": f"{kind}-1"}
    [port] = free_ports(1)
    shipping = Neighbour("downstream.mjs", "shipping", port, "http://127.0.0.1:9", tmp_path / "b")
    await shipping.start()
    try:
        caller = Caller(shipping.url, "payment", Keys(), data)
        async with caller.open():
            await asyncio.gather(*(law(caller) for law in LAWS))
    finally:
        await shipping.kill()


async def test_a_saga_that_is_in_no_books_of_the_head_was_lost(tmp_path: Path) -> None:
    """409 unknown: a tombstone would say that nothing stands at it."""
    async with trio(tmp_path) as three:
        status, _, body = await three.chain.request(
            "POST", f"{three.order.url}/sagas/s-lost/compensate", b'{"requested_by":"payment"}'
        )
        assert (409, "unknown") == (status, msgspec.json.decode(body)["outcome"])


async def test_a_saga_that_the_downstream_may_have_lost_gets_no_tombstone(tmp_path: Path) -> None:
    """503 unknown before its books began, or were put back; what they hold is undone."""
    [port] = free_ports(1)
    books = tmp_path / "books"
    shipping = Neighbour("downstream.mjs", "shipping", port, "http://127.0.0.1:9", books)
    caller = Caller(shipping.url, "payment", Keys(), {"order_id": "good-1"})

    async def compensated(saga_id: str, first_sent_at: float | None) -> tuple[int, str]:
        said = {} if first_sent_at is None else {"first_sent_at": format_instant(first_sent_at)}
        body = msgspec.json.encode({"requested_by": "payment", **said}) if said else b""
        answer = await caller.post(f"/sagas/{saga_id}/compensate", body)
        return answer.status, msgspec.json.decode(answer.body)["outcome"]

    lost, nothing, before = (503, "unknown"), (200, "compensated"), time.time() - 60
    await shipping.start()
    try:
        async with caller.open():
            assert lost == await compensated("s-1", before)
            assert nothing == await compensated("s-2", time.time() + 1)
            assert nothing == await compensated("s-3", None)
            assert 200 == (await caller.settled("s-4")).status
            assert nothing == await compensated("s-4", before)
            assert 200 == (await caller.settled("s-1")).status  # no tombstone stands there
            await shipping.kill()
            await shipping.start()
            assert lost == await compensated("s-5", before)  # they began then, and not now
            assert nothing == await compensated("s-6", time.time() - 0.001)

            await shipping.kill()
            began = {"began": format_instant(time.time() + 3600)}
            with books.open("ab") as file:  # as the page says, behind a backup that was put back
                file.write(msgspec.json.encode(began) + b"\n")
            await shipping.start()
            assert lost == await compensated("s-7", time.time())
            assert nothing == await compensated("s-2", before)
    finally:
        await shipping.kill()


@pytest.mark.parametrize(
    "script, path",
    [
        ("upstream.mjs", "/sagas/s-1/compensate"),
        ("upstream.mjs", "/orders"),
        ("downstream.mjs", "/sagas/%zz/compensate"),
    ],
)
async def test_an_unreadable_request_ends_no_neighbour(
    tmp_path: Path, script: str, path: str
) -> None:
    """A body that is no JSON, a path that is none, and a caller that hangs up within its body."""
    [port] = free_ports(1)
    neighbour = Neighbour(script, "order", port, "http://127.0.0.1:9", tmp_path / "books")
    await neighbour.start()
    try:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{{".encode())
        await writer.drain()
        writer.transport.abort()
        async with aiohttp.ClientSession() as session:
            url = URL(f"{neighbour.url}{path}", encoded=True)
            async with session.post(url, data=b"{") as answer:
                assert (400, {"outcome": "unknown"}) == (answer.status, await answer.json())
            async with session.get(f"{neighbour.url}/books") as answer:
                assert 200 == answer.status
    finally:
        await neighbour.kill()


@pytest.mark.parametrize(
    "header, seconds",
    [("31536000", 60), ("-5", 0), ("NaN", 0), ("Infinity", 60), ("1e9", 60), ("7", 7)],
)
async def test_a_pause_that_a_header_asks_for_is_bounded(header: str, seconds: int) -> None:
    """A year in milliseconds is more than setTimeout takes: it would not wait at all."""
    stage = FakeStage()
    stage.says("GET /sagas/*", Reply(503, headers={"Retry-After": header}))
    async with TestServer(stage.app) as server:
        url = str(server.make_url("/sagas/s-1"))
        code = (
            f"import({str(HERE / 'http.mjs')!r}).then(async ({{ ask }}) =>"
            f" console.log((await ask({url!r}, {{ method: 'GET', seconds: 60 }})).retryAfter))"
        )
        assert NODE is not None
        node = await asyncio.create_subprocess_exec(
            NODE, "-e", code, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await node.communicate()
    assert str(seconds) == printed.decode().strip()


async def saved(books: Path, ids: Sequence[str], *, blocks_max: str = "unlimited") -> list[str]:
    """The ids that these books said were saved, by a process whose files are so large at most."""
    code = (
        f"import {{ Books }} from {msgspec.json.encode((HERE / 'books.mjs').as_uri()).decode()};"
        "const [path, ...ids] = process.argv.slice(1); const books = new Books(path);"
        "for (const id of ids) { books.save(id, { state: 'done' }); console.log(id); }"
        "console.log(books.rows().map((row) => row.id).join(' '));"
    )
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", f'ulimit -f {blocks_max}; exec "$0" "$@"', str(NODE)),
        *("--input-type=module", "-e", code, str(books), *ids),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    lines = output.decode().splitlines()
    return lines[-1].split() if process.returncode == 0 else lines


async def test_a_line_that_was_cut_off_stays_no_part_of_the_next(tmp_path: Path) -> None:
    """The books of node begin behind it, and are read at each start from then on."""
    books = tmp_path / "books.jsonl"
    assert ["s-1"] == await saved(books, ["s-1"])
    with books.open("a", encoding="utf-8") as file:
        file.write('{"state":"runs","hash":"ab')
    assert ["s-1", "s-2"] == await saved(books, ["s-2"])
    assert ["s-1", "s-2"] == await saved(books, [])


async def test_a_full_disk_ends_a_process_before_a_row_counts(tmp_path: Path) -> None:
    """A row of which a part was written is one that is not there at the next start."""
    books = tmp_path / "books.jsonl"
    said = await saved(books, [f"s-{number}" for number in range(1_000)], blocks_max="8")
    assert 0 < len(said) < 1_000
    assert said == await saved(books, [])
