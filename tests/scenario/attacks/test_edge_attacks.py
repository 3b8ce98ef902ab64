"""Defects found at the edge: what a neighbour can see over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.bootstrap import wiring
from stage.demo.payment import payment
from stage.wire.limits import Limits
from tests.scenario.chain import HOST, ORDER, Chain, running_chain

SECONDS_MAX = 20.0


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path) as running:
        yield running


def decoded(body: bytes) -> Any:
    return msgspec.json.decode(body)


class Hold:
    """A stage whose call goes on once it is let: until then its saga keeps its place."""

    def __init__(self) -> None:
        self.stage: Stage[dict[str, Any], Any] = Stage("payment", accepts=dict[str, Any])
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()

        @self.stage.call(to="psp", timeout=60.0, compensation=None, reason="no test undoes it")
        async def charge(http: Http, saga: Saga[dict[str, Any]]) -> None:
            self.begun.set()
            await self.may_end.wait()

    @asynccontextmanager
    async def by(self, chain: Chain, saga_id: str) -> AsyncIterator[None]:
        """Send that saga, and let it end afterwards."""
        self.begun.clear()
        self.may_end.clear()
        held = asyncio.create_task(chain.send(saga_id))
        async with asyncio.timeout(SECONDS_MAX):
            await self.begun.wait()
        try:
            yield
        finally:
            self.may_end.set()
        assert 200 == (await held)[0]


async def test_a_duplicate_of_a_finished_saga_is_replayed_after_the_deadline(chain: Chain) -> None:
    """504 says not_executed. It was executed: the stored answer is the only true one (3.3)."""
    deadline = time.time() + 3.0
    first = await chain.send("s-1", deadline=deadline)
    assert 200 == first[0]
    await asyncio.sleep(deadline - time.time() + 0.2)
    again = await chain.send("s-1", deadline=deadline)
    assert (200, first[2]) == (again[0], again[2]), decoded(again[2])


async def test_a_budget_used_up_does_not_hide_what_was_executed(chain: Chain) -> None:
    """The same by the header: the last retry of an impatient caller."""
    await chain.send("s-1")
    status, _, body = await chain.send("s-1", Saga_Budget_Ms="0")
    assert 200 == status, decoded(body)


async def test_a_duplicate_of_a_finished_saga_is_replayed_when_full(tmp_path: Path) -> None:
    """A replay runs nothing: 503 not_executed for an executed saga is untrue (3.3, rule 26)."""
    hold = Hold()
    async with running_chain(tmp_path, stage=hold.stage, concurrency_max=1) as chain:
        hold.may_end.set()
        first = await chain.send("s-1")
        assert 200 == first[0]
        async with hold.by(chain, "s-2"):
            assert 503 == (await chain.send("s-3"))[0]
            again = await chain.send("s-1")
        assert (200, first[2]) == (again[0], again[2]), decoded(again[2])


async def test_a_deadline_at_the_edge_of_time_is_no_defect(chain: Chain) -> None:
    """Control fields are checked at the door: never 500 (rule 25)."""
    envelope = {"saga_id": "s-1", "data": ORDER, "deadline": "9999-12-31T23:59:59-01:00"}
    body = msgspec.json.encode(envelope)
    status, _, body = await chain.request("POST", f"{chain.stage}/sagas", body)
    assert 500 != status, body


@pytest.mark.parametrize("case", ["payload", "mismatch", "deadline", "busy"])
async def test_every_problem_names_its_saga(tmp_path: Path, case: str) -> None:
    """Every error has the members saga_id and trace_id once the id is known (3.3, rule 24)."""
    hold = Hold()
    stage = hold.stage if case == "busy" else payment
    async with running_chain(tmp_path, stage=stage, concurrency_max=1) as chain:
        if case == "payload":
            answer = await chain.send("s-1", {"order_id": "o-1"})
        elif case == "mismatch":
            await chain.send("s-1")
            answer = await chain.send("s-1", {**ORDER, "amount": 7})
        elif case == "deadline":
            answer = await chain.send("s-1", Saga_Budget_Ms="0")
        else:
            async with hold.by(chain, "s-2"):
                answer = await chain.send("s-1")
        assert answer[0] >= 400
        assert "s-1" == decoded(answer[2]).get("saga_id")
        assert decoded(answer[2]).get("trace_id")
        assert "s-1" == answer[1].get("Saga-Id")


async def test_an_encoded_body_of_compensate_is_refused_and_not_a_defect(chain: Chain) -> None:
    """An encoding that was not asked for: 415, never 500 (rule 25)."""
    url = f"{chain.stage}/sagas/s-1/compensate"
    body = b"\x00garbage"
    status, _, answer = await chain.request("POST", url, body, Content_Encoding="gzip")
    assert 415 == status, answer


async def raw(chain: Chain, request: bytes) -> bytes:
    """The answer to bytes as they are."""
    reader, writer = await asyncio.open_connection(HOST, int(chain.stage.rsplit(":", 1)[1]))
    writer.write(request)
    async with asyncio.timeout(SECONDS_MAX):
        answer = await reader.read(4096)
    writer.close()
    return answer


async def test_a_second_content_encoding_is_no_defect(chain: Chain) -> None:
    """415 or 400 when the header stands twice, never 500 (rule 25)."""
    answer = await raw(
        chain,
        b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    )
    assert not answer.startswith(b"HTTP/1.1 500"), answer


@pytest.mark.parametrize(
    "headers, code",
    [
        (b"Content-Type: text/plain\r\nContent-Length: 2\r\n", 415),
        (b"Content-Type: application/json\r\nContent-Length: 99999999\r\n", 413),
        (
            b"Content-Type: application/json\r\nContent-Length: 2\r\nOrigin: http://x.example\r\n",
            403,
        ),
    ],
)
async def test_no_body_is_asked_for_that_is_refused_by_its_head(
    chain: Chain, headers: bytes, code: int
) -> None:
    """A client that waits for 100 Continue sends it for nothing; 100 MB of it, maybe."""
    line = b"POST /sagas/s-1/compensate HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    answer = await raw(chain, line + headers + b"Expect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % code), answer


async def test_a_body_that_waits_to_be_asked_for_is_asked_for(chain: Chain) -> None:
    """Once everything else of the request was found to be right."""
    head = b"POST /sagas/s-1/compensate HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await asyncio.open_connection(HOST, int(chain.stage.rsplit(":", 1)[1]))
    async with asyncio.timeout(SECONDS_MAX):
        writer.write(head)
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("apart", [False, True], ids=["with its head", "after its head"])
async def test_a_body_without_a_length_is_measured_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    """413 at once, also of one that never ends: else memory has no limit (rule 25)."""
    monkeypatch.setattr(wiring, "DEFAULT_LIMITS", Limits(body_bytes_max=100))
    head = (
        b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n"
    )
    body, end = b"65\r\n" + b" " * 0x65 + b"\r\n", b"0\r\n\r\n"
    async with running_chain(tmp_path) as chain, asyncio.timeout(SECONDS_MAX):
        reader, writer = await asyncio.open_connection(HOST, int(chain.stage.rsplit(":", 1)[1]))
        if apart:
            writer.write(head + b"Expect: 100-continue\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(body)
        else:
            writer.write(head + b"\r\n" + body + end)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
        writer.close()


SQL = "x'); DROP TABLE payment; --"


async def test_sql_in_a_payload_and_in_a_query_is_a_text(chain: Chain) -> None:
    """It is stored and looked for as it stands, and runs nowhere."""
    order = {"order_id": SQL, "amount": 100, "currency": "KRW"}
    assert 200 == (await chain.send("s-1", order))[0]
    for name in ("state", "step", "peer", "cause", "after", "since", "trace_id"):
        query = urlencode({name: f"{SQL}' OR '1'='1"})
        status, _, body = await chain.request("GET", f"{chain.stage}/sagas?{query}")
        assert status < 500, body
        assert 200 != status or [] == msgspec.json.decode(body)["sagas"], body
    assert 200 == (await chain.send("s-2"))[0]
    assert (2, 2) == await chain.charges()
