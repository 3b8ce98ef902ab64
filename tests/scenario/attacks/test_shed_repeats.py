"""Repeats of sagas that were executed, while starts are refused (I10)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import msgspec
import pytest

from stage.core.errors import StoreUnavailable
from stage.inbound.aiohttp import SERVICE
from stage.inbound.aiohttp_server import BoundedServer
from stage.inbound.overload import Overload
from stage.inbound.unparsed import key_in
from stage.wire.envelope import Envelope, TrailEntry, encode_envelope
from tests.scenario.attacks.test_slow_clients import Client, Served, ended, serving
from tests.scenario.chain import HOST, ORDER, Chain, running_chain
from tests.waits import HANG_SECONDS

SHED = 1e-9
"""A rate of starts that admits none."""


def shed_starts(chain: Chain) -> None:
    assert chain.app is not None
    exhaust(chain.app[SERVICE].admission.overload)


def exhaust(overload: Overload) -> None:
    """Admit no start of anybody from here on."""
    overload.rate = SHED
    while overload.admits():
        pass


def outcome(body: bytes) -> str:
    said: str = msgspec.json.decode(body)["outcome"]
    return said


async def test_a_repeat_is_answered_from_the_journal_while_starts_are_shed(chain: Chain) -> None:
    """By its Idempotency-Key, which is read before the body; a saga never seen is refused."""
    first = await chain.send("s-1")
    shed_starts(chain)

    again = await chain.send("s-1", Idempotency_Key="s-1")
    new = await chain.send("s-2", Idempotency_Key="s-2")

    assert (200, first[2], "true") == (again[0], again[2], again[1]["Idempotency-Replayed"])
    assert (503, "not_executed") == (new[0], outcome(new[2]))
    assert (1, 1) == await chain.charges()


async def test_a_start_without_a_key_is_shed_without_a_word_on_the_saga(chain: Chain) -> None:
    """Its body is not read, so nobody here knows which saga it is."""
    await chain.send("s-1")
    shed_starts(chain)

    status, headers, body = await chain.send("s-1")

    assert (503, "unknown") == (status, outcome(body))
    assert int(headers["Retry-After"]) >= 1


async def test_a_key_of_another_saga_gets_nothing_in(chain: Chain) -> None:
    """The key of one that was seen, with the body of a new one: 422, no effect."""
    await chain.send("s-1")
    shed_starts(chain)

    status, _, body = await chain.send("s-2", Idempotency_Key="s-1")

    assert (422, "not_executed") == (status, outcome(body))
    assert (1, 1) == await chain.charges()


async def test_a_repeat_while_its_caller_has_its_share_is_not_denied(tmp_path: Path) -> None:
    """The places are taken by hung sagas: 503, and nothing is said of what was executed."""
    async with running_chain(tmp_path, requests_max=2, drain_seconds=0.1) as chain:
        await chain.send("s-1")
        await chain.script(chain.shipping, script="hang")
        hung = [asyncio.create_task(chain.send(f"h-{n}", Prefer="wait=25")) for n in range(2)]
        for saga_id in ("h-0", "h-1"):
            await chain.until(saga_id, lambda saga: saga["state"] == "active")

        answers = [await chain.send("s-1"), await chain.send("s-1", via="stranger")]

        for status, _, body in answers:
            assert (503, "unknown") == (status, outcome(body)), body
        for each in hung:
            each.cancel()
        await asyncio.wait(hung)


async def test_while_the_database_is_away_nothing_is_said_of_a_saga(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can look whether it was seen."""
    assert chain.app is not None
    engine = chain.app[SERVICE].engine

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk has gone")

    await chain.send("s-1")
    monkeypatch.setattr(engine, "accept", away)
    known = await chain.send("s-1")
    new = await chain.send("s-2")
    monkeypatch.setattr(chain.app[SERVICE].lookups, "_seen", away)
    unread = await chain.send("s-3")

    assert (503, "unknown") == (known[0], outcome(known[2]))
    assert (503, "not_executed") == (new[0], outcome(new[2]))
    assert (503, "unknown") == (unread[0], outcome(unread[2]))


def start(saga_id: str, *, key: bool) -> bytes:
    """A whole start in one piece, as the server sheds it before it is parsed."""
    trail = (TrailEntry(stage="order", at="2026-11-23T02:29:58.120Z"),)
    body = encode_envelope(Envelope(saga_id=saga_id, data=ORDER, trail=trail))
    head = f"POST /sagas HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    head += "Prefer: respond-async\r\n"  # its API is dead: it is answered 202, and goes on
    named = f"Idempotency-Key: {saga_id}\r\n" if key else ""
    return f"{head}{named}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def test_a_whole_start_is_looked_up_before_it_is_shed(tmp_path: Path) -> None:
    """The server refuses it unparsed, with the same three answers, and the connection stays."""

    async def said(client: Client, saga_id: str, *, key: bool = True) -> tuple[int, str]:
        reader, writer = client
        writer.write(start(saga_id, key=key))
        async with asyncio.timeout(HANG_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
            return int(head.split()[1]), outcome(await reader.readexactly(length))

    async with serving(tmp_path) as served:
        first = await said(await served.connect(), "s-1")
        overload = served.app[SERVICE].admission.overload
        exhaust(overload)
        client = await served.connect()

        answers = [await said(client, "s-2"), await said(client, "s-1")]
        unnamed = await said(client, "s-1", key=False)

        assert [(503, "not_executed"), first] == answers
        assert (503, "unknown") == unnamed
        assert overload.shed >= 3


async def test_starts_that_come_in_one_turn_are_not_all_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 that the event loop reads at once, the few that the limit has places for are judged."""

    async def answered(client: Client, sent: bytes) -> int:
        client[1].write(sent)
        async with asyncio.timeout(30):
            head = await client[0].readuntil(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
            await client[0].readexactly(length)
            return int(head.split()[1])

    async with serving(tmp_path) as served:
        clients = [await served.connect() for _ in range(40)]
        for client in clients:  # it keeps its connection
            await answered(client, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        overload = served.app[SERVICE].admission.overload
        judged: list[str] = []
        admits = overload.admits

        def counted(caller: str = "", cost: float = 1.0) -> bool:
            judged.append(caller)
            return admits(caller, cost)

        monkeypatch.setattr(overload, "admits", counted)
        overload.rate = 50.0
        overload.tick(0.0)
        overload.rate = SHED
        starts = [start(f"s-{number}", key=True) for number in range(len(clients))]
        codes = await asyncio.gather(*map(answered, clients, starts))

    assert 1 <= len(judged) <= 12
    assert 28 <= codes.count(503) < 40


async def code_of(client: Client) -> tuple[int, bytes]:
    """The code of the next answer, and its head."""
    async with asyncio.timeout(HANG_SECONDS):
        head = await client[0].readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        await client[0].readexactly(length)
    return int(head.split()[1]), head


async def kept(served: Served) -> Client:
    """A connection whose first request was answered: the next start on it is held."""
    client = await served.connect()
    client[1].write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert 200 == (await code_of(client))[0]
    return client


async def test_a_start_that_is_held_for_longer_than_a_connection_may_idle_is_answered(
    tmp_path: Path,
) -> None:
    """Its connection is not idle while it waits, and is again once it was refused."""
    async with serving(tmp_path, idle_seconds=0.2) as served:
        exhaust(served.app[SERVICE].admission.overload)
        client = await kept(served)
        client[1].write(start("s-1", key=True))

        assert 503 == (await code_of(client))[0]
        assert await ended(client[0])


async def test_a_refusal_ends_the_connection_of_a_process_that_stops(tmp_path: Path) -> None:
    """Otherwise a proxy sends the next request on it just as it is closed."""
    async with serving(tmp_path) as served:
        exhaust(served.app[SERVICE].admission.overload)
        client = await kept(served)
        served.runner.retire()
        client[1].write(start("s-1", key=True))

        code, head = await code_of(client)
        assert 503 == code and b"\r\nConnection: close\r\n" in head
        assert await ended(client[0])


async def test_all_starts_that_are_held_are_answered_before_a_process_stops(
    tmp_path: Path,
) -> None:
    """A connection that is closed without a word would leave each of them in doubt."""
    async with serving(tmp_path) as served:
        clients = [await kept(served) for _ in range(300)]
        exhaust(served.app[SERVICE].admission.overload)
        for number, client in enumerate(clients):
            client[1].write(start(f"s-{number}", key=True))
        server = served.server
        assert isinstance(server, BoundedServer)
        await served.until(lambda: 300 == sum(map(len, server.held._held.values())))
        await served.runner.cleanup()

        codes = [(await code_of(client))[0] for client in clients]
        assert [503] * 300 == codes


@pytest.mark.parametrize("has_place", [True, False])
async def test_a_request_behind_a_held_start_is_answered_after_it(
    has_place: bool, tmp_path: Path
) -> None:
    """It is not lost, nor read for more: who sends without end is held back."""
    async with serving(tmp_path) as served:
        overload = served.app[SERVICE].admission.overload
        exhaust(overload)
        client = await kept(served)
        client[1].write(start("s-1", key=True))
        await served.until(lambda: bool(served.server.held._held))
        client[1].write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        [protocol] = [each for each in served.server.connections if served.server.held]
        await served.until(lambda: not protocol.transport.is_reading())  # type: ignore[union-attr]
        if has_place:
            overload.rate = 1_000.0
            overload.tick(0.0)

        first, second = await code_of(client), await code_of(client)
        assert (503 != first[0]) is has_place
        assert 200 == second[0]


async def test_a_client_that_hangs_up_leaves_nothing_held(tmp_path: Path) -> None:
    """A flood that sends a start and leaves at once would fill the memory, beyond all limits."""
    async with serving(tmp_path) as served:
        exhaust(served.app[SERVICE].admission.overload)
        stays, *leave = [await kept(served) for _ in range(20)]
        for number, client in enumerate((stays, *leave)):
            client[1].write(start(f"s-{number}", key=True))
        await served.until(lambda: 20 == sum(map(len, served.server.held._held.values())))
        for _, writer in leave:
            writer.transport.abort()
        await served.until(lambda: 1 == len(served.server.connections))

        assert [1] == [len(held) for held in served.server.held._held.values()]
        assert 503 == (await code_of(stays))[0]
        assert not served.server.held._held


async def test_starts_that_are_held_keep_no_compensation_out(tmp_path: Path) -> None:
    """The start that would be refused next gives its connection up (rule 37)."""
    async with serving(tmp_path, connections_max=10) as served:
        flood = [await kept(served) for _ in range(10)]
        exhaust(served.app[SERVICE].admission.overload)
        for number, client in enumerate(flood):
            client[1].write(start(f"s-{number}", key=True))
        await served.until(lambda: 10 == sum(map(len, served.server.held._held.values())))
        body = b'{"requested_by":"order"}'
        undo = b"POST /sagas/s-x/compensate HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        undo += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        caller = await served.say(undo + body)

        assert 200 == (await code_of(caller))[0]
        code, head = await code_of(flood[0])
        assert 503 == code and b"\r\nRetry-After: " in head and b"\r\nConnection: close\r\n" in head
        assert await ended(flood[0][0])
        assert [] == served.turned_away


HEAD = b"POST /sagas HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "lines, key",
    [
        (b"Idempotency-Key: s-1\r\n", "s-1"),
        (b'idempotency-key:"s-1"\r\n', "s-1"),
        (b"Idempotency-Key: s-1\r\nIdempotency-Key: s-2\r\n", ""),
        (b"Idempotency-Key: s 1\r\n", ""),
        (b"X: Idempotency-Key: s-1\r\n", ""),
        (b"", ""),
    ],
)
def test_the_key_in_bytes_is_read_as_the_parser_reads_it(lines: bytes, key: str) -> None:
    """One key alone counts, and only in the head."""
    assert key == key_in(HEAD + lines + b"\r\nIdempotency-Key: body\r\n")
