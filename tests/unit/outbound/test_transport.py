"""One request out: what is written, what is read, and what is known when it goes wrong.

The peer is a socket that says scripted bytes, so that it can say what no server would.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from stage.outbound.transport import ANSWER_BYTES_MAX, CONNECTIONS_MAX, Transport
from stage.ports.stage import Answer, Lost
from tests.kept_port import kept_port

SECONDS = 20.0
SHORT_SECONDS = 1.0
"""Enough for a busy machine to connect and to send."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOLD = b"hold"
"""Not an answer: say nothing, and keep the connection."""
HUGE = 32 * 1_048_576
"""More than the buffers of two sockets hold."""


class Peer:
    """Answers each request on each connection with what is next in the script; then it hangs up."""

    def __init__(self) -> None:
        self.script: list[bytes] = [OK]
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.connected = asyncio.Event()
        self.connections = 0
        self.takes_bodies = True
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.connected.set()
        try:
            while self.script:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.partition(b":")[2])
                body = await reader.readexactly(length) if self.takes_bodies else b""
                self.requests.append(head + body)
                self.asked.set()
                answer = self.script.pop(0)
                if answer == HOLD:
                    await reader.read()
                    return
                writer.write(answer)
                await writer.drain()
                if not self.takes_bodies:
                    await asyncio.sleep(0.2)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def head(self, number: int = 0) -> dict[str, list[str]]:
        """The headers of one request, by lower-case names."""
        parsed: dict[str, list[str]] = {}
        for line in self.requests[number].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            parsed.setdefault(name.lower(), []).append(value)
        return parsed


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield peer
    server.close()
    await server.wait_closed()


@pytest.fixture
async def transport(peer: Peer) -> AsyncIterator[Transport]:
    transport = Transport()
    await transport.open()
    yield transport
    await transport.close()


async def sent(
    transport: Transport,
    url: str,
    *,
    method: str = "POST",
    headers: list[tuple[str, str]] | None = None,
    body: bytes = b"{}",
    timeout: float = SECONDS,
) -> Answer | Lost:
    return await transport.send(method, url, headers=headers or [], body=body, timeout=timeout)


async def test_a_request_says_who_sends_it_and_what_it_holds(
    peer: Peer, transport: Transport
) -> None:
    """The usual headers are there once, and no others."""
    await sent(transport, f"{peer.url}/charges?a=%2F", headers=[("Content-Type", "text/x")])
    assert peer.requests[0].startswith(b"POST /charges?a=%2F HTTP/1.1\r\n")
    assert peer.requests[0].endswith(b"\r\n\r\n{}")
    assert peer.head() == {
        "host": [peer.url.removeprefix("http://")],
        "user-agent": ["stage"],
        "accept-encoding": ["identity"],
        "accept": ["*/*"],
        "content-type": ["text/x"],
        "content-length": ["2"],
    }


async def test_the_last_look_comes_between_the_connection_and_the_first_byte(peer: Peer) -> None:
    """A process that is stopped while it connects sends nothing once its lease is over."""
    looked, renewed = asyncio.Event(), asyncio.Event()

    async def assured() -> None:
        looked.set()
        await renewed.wait()

    transport = Transport(assured)
    await transport.open()
    try:
        sending = asyncio.create_task(sent(transport, peer.url))
        await looked.wait()
        await peer.connected.wait()
        assert [] == peer.requests
        renewed.set()
        assert isinstance(await sending, Answer)
        assert 1 == len(peer.requests)
    finally:
        await transport.close()


async def test_a_given_header_takes_the_place_of_the_usual_one(
    peer: Peer, transport: Transport
) -> None:
    """In any case of its letters; and of two with one name the last holds."""
    peer.script = [OK, OK]
    given = [("ACCEPT", "text/plain"), ("content-type", "a/b"), ("user-agent", "me")]
    await sent(transport, peer.url, headers=[*given, ("Content-Type", "c/d")])
    head = peer.head()
    assert (["text/plain"], ["me"]) == (head["accept"], head["user-agent"])
    assert ["c/d"] == head["content-type"]
    await sent(transport, peer.url)
    assert ["application/octet-stream"] == peer.head(1)["content-type"]


@pytest.mark.parametrize("method, length", [("POST", ["0"]), ("DELETE", ["0"]), ("GET", None)])
async def test_a_request_without_a_body_says_so(
    peer: Peer, transport: Transport, method: str, length: list[str] | None
) -> None:
    """Where a body could be expected."""
    assert isinstance(await sent(transport, peer.url, method=method, body=b""), Answer)
    assert length == peer.head().get("content-length")


async def test_one_request_after_another_takes_one_connection(
    peer: Peer, transport: Transport
) -> None:
    """Also when what is asked for differs."""
    peer.script = [OK] * 3
    for path in ("/a", "/b", "/a"):
        answer = await sent(transport, peer.url + path, headers=[("X", path)])
        assert isinstance(answer, Answer)
        assert (200, b"{}") == (answer.status, answer.body)
        assert ("Content-Length", "2") in answer.headers
    assert 1 == peer.connections
    assert [["/a"], ["/b"], ["/a"]] == [peer.head(number)["x"] for number in range(3)]


async def test_a_fresh_request_takes_a_connection_of_its_own(
    peer: Peer, transport: Transport
) -> None:
    """One that was used before may be closed in the moment in which the request arrives."""
    peer.script = [OK, OK, OK, OK]
    await sent(transport, peer.url)
    for number in (2, 3):
        answer = await transport.send(
            "POST", peer.url, headers=[], body=b"{}", timeout=SECONDS, fresh=True
        )
        assert isinstance(answer, Answer)
        assert number == peer.connections
    await sent(transport, peer.url)
    assert 3 == peer.connections


async def test_a_redirect_is_the_answer(peer: Peer, transport: Transport) -> None:
    """It is not followed: no answer makes us call an address of its choosing."""
    peer.script = [b"HTTP/1.1 307 No\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", OK]
    answer = await sent(transport, peer.url)
    assert isinstance(answer, Answer)
    assert 307 == answer.status
    assert 1 == len(peer.requests)


async def test_a_cookie_is_not_kept(peer: Peer, transport: Transport) -> None:
    """The cookie of one saga is not shown by the next."""
    peer.script = [b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", OK]
    await sent(transport, peer.url)
    await sent(transport, peer.url)
    assert "cookie" not in peer.head(1)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_a_broken_connection_leaves_doubt_and_is_not_tried_again(
    peer: Peer, transport: Transport, method: str
) -> None:
    """Also on a connection that was good before, where repeating would be safe for HTTP."""
    peer.script = [OK, b"", OK]
    await sent(transport, peer.url)
    peer.script = [b""]
    lost = await sent(transport, peer.url, method=method)
    assert isinstance(lost, Lost)
    assert (False, "broken") == (lost.certain, lost.error)
    assert 2 == len(peer.requests)


async def test_an_answer_that_breaks_off_leaves_doubt(peer: Peer, transport: Transport) -> None:
    """Its code alone is no answer."""
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}"]
    lost = await sent(transport, peer.url)
    assert isinstance(lost, Lost)
    assert not lost.certain


async def test_bytes_that_are_no_http_leave_doubt(peer: Peer, transport: Transport) -> None:
    """Somebody took the request."""
    peer.script = [b"220 mail.example ESMTP\r\n"]
    lost = await sent(transport, peer.url)
    assert isinstance(lost, Lost)
    assert not lost.certain


async def test_a_refused_connection_is_certain(transport: Transport) -> None:
    """Nothing was sent."""
    with kept_port() as port:
        lost = await sent(transport, f"http://127.0.0.1:{port}/x")
    assert isinstance(lost, Lost)
    assert (True, "refused") == (lost.certain, lost.error)
    assert "not sent: refused" == lost.reason


async def test_connections_that_end_before_the_first_byte_are_certain(
    ended: asyncio.Queue[None],
) -> None:
    """Nothing was written, so that nothing can have happened. The peer is not asked for ever."""
    connections = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/charges"
    transport = Transport(ended.get)
    await transport.open()
    async with server:
        lost = await transport.send("POST", url, headers=[], body=b"{}", timeout=SECONDS)
    await transport.close()
    assert isinstance(lost, Lost) and lost.certain and lost.reason.startswith("not sent: "), lost
    assert CONNECTIONS_MAX == connections


async def test_a_last_look_that_takes_too_long_is_certain(peer: Peer) -> None:
    """The lease was not renewed in time, and nothing has left."""
    transport = Transport(asyncio.Event().wait)  # type: ignore[arg-type]
    await transport.open()
    lost = await transport.send("POST", peer.url, headers=[], body=b"{}", timeout=SHORT_SECONDS)
    await transport.close()
    assert isinstance(lost, Lost) and lost.certain and lost.reason.startswith("not sent: "), lost
    assert [] == peer.requests


async def test_a_connection_that_does_not_come_about_in_time_is_certain(
    peer: Peer, transport: Transport
) -> None:
    """Here the peer does not speak TLS, and says nothing at all. The reason holds no URL."""
    url = peer.url.replace("http://", "https://me:secret@")
    lost = await sent(transport, f"{url}?card=secret", timeout=SHORT_SECONDS)
    assert isinstance(lost, Lost)
    assert "not sent: no connection in time" == lost.reason
    assert (True, "refused") == (lost.certain, lost.error)
    assert [] == peer.requests


async def test_no_answer_in_time_leaves_doubt(peer: Peer, transport: Transport) -> None:
    """And the connection is closed: a late answer must not be taken for that of the next."""
    peer.script = [HOLD, OK]
    lost = await sent(transport, peer.url, timeout=SHORT_SECONDS)
    assert isinstance(lost, Lost)
    assert (False, "timeout") == (lost.certain, lost.error)
    assert isinstance(await sent(transport, peer.url), Answer)
    assert 2 == peer.connections


async def test_the_time_also_holds_for_the_rest_of_an_answer(
    peer: Peer, transport: Transport
) -> None:
    """It covers the whole exchange."""
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}" + b" " * 3, HOLD]
    lost = await sent(transport, peer.url, timeout=SHORT_SECONDS)
    assert isinstance(lost, Lost)
    assert "timeout" == lost.error


async def test_a_cancelled_request_leaves_no_connection_behind(
    peer: Peer, transport: Transport
) -> None:
    """Its late bytes would be taken for another answer."""
    peer.script = [HOLD, OK]
    task = asyncio.create_task(sent(transport, peer.url))
    await peer.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(await sent(transport, peer.url), Answer)
    assert 2 == peer.connections


async def test_bytes_before_the_answer_are_passed_over(peer: Peer, transport: Transport) -> None:
    """Hints and words of patience are not answers."""
    peer.script = [b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK]
    answer = await sent(transport, peer.url)
    assert isinstance(answer, Answer)
    assert 200 == answer.status


async def test_interim_answers_without_end_are_in_doubt(peer: Peer, transport: Transport) -> None:
    """They are counted: reading them as they came held the event loop for 32 s."""
    peer.script = [b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000 + OK]
    began = time.process_time()
    lost = await sent(transport, peer.url)
    assert isinstance(lost, Lost) and not lost.certain, lost
    assert "1xx" in lost.reason
    assert 1.0 > time.process_time() - began


async def test_an_answer_without_a_length_ends_with_its_connection(
    peer: Peer, transport: Transport
) -> None:
    """As HTTP/1.0 does it."""
    peer.script = [b"HTTP/1.0 200 OK\r\n\r\n{}"]
    answer = await sent(transport, peer.url)
    assert isinstance(answer, Answer)
    assert b"{}" == answer.body


async def test_an_answer_in_pieces_is_read_whole(peer: Peer, transport: Transport) -> None:
    """And the connection is good for more."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    peer.script = [head + b"10000\r\n" + b"a" * 65_536 + b"\r\n1\r\nb\r\n0\r\n\r\n", OK]
    answer = await sent(transport, peer.url)
    assert isinstance(answer, Answer)
    assert b"a" * 65_536 + b"b" == answer.body
    assert isinstance(await sent(transport, peer.url), Answer)
    assert 1 == peer.connections


async def test_the_answer_to_head_has_no_body(peer: Peer, transport: Transport) -> None:
    """Even if it announces a length."""
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", OK]
    answer = await sent(transport, peer.url, method="HEAD", body=b"")
    assert isinstance(answer, Answer)
    assert b"" == answer.body
    assert isinstance(await sent(transport, peer.url), Answer)


async def test_an_answer_that_is_too_large_is_none(peer: Peer, transport: Transport) -> None:
    """No more of it is read, and its connection is closed."""
    length = ANSWER_BYTES_MAX * 4
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"a" * length]
    lost = await sent(transport, peer.url)
    assert isinstance(lost, Lost)
    assert (False, "200") == (lost.certain, lost.error)
    peer.script = [OK]
    assert isinstance(await sent(transport, peer.url), Answer)
    assert 2 == peer.connections


async def test_an_answer_in_an_encoding_that_was_not_asked_for_is_none(
    peer: Peer, transport: Transport
) -> None:
    """We do not unpack what may be larger than it looks."""
    peer.script = [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"]
    lost = await sent(transport, peer.url)
    assert isinstance(lost, Lost)
    assert "gzip" in lost.reason


async def test_an_answer_counts_before_all_was_taken(peer: Peer, transport: Transport) -> None:
    """A peer may refuse a body without reading it; nothing more is sent behind what it left."""
    peer.takes_bodies = False
    peer.script = [b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\n{}"]
    answer = await sent(transport, peer.url, body=b"a" * HUGE)
    assert isinstance(answer, Answer)
    assert 413 == answer.status
    peer.script = [OK]
    assert isinstance(await sent(transport, peer.url, body=b""), Answer)
    assert 2 == peer.connections


@pytest.mark.parametrize("headers", [[("X", "a\r\nHost: other")], [("X\r\nHost", "other")]])
async def test_no_header_holds_another(
    peer: Peer, transport: Transport, headers: list[tuple[str, str]]
) -> None:
    """It is not sent, which is certain."""
    lost = await sent(transport, peer.url, headers=headers)
    assert isinstance(lost, Lost) and lost.certain and lost.reason.startswith("not sent: "), lost
    assert [] == peer.requests


async def test_a_header_may_hold_a_tab_and_letters_of_any_kind(
    peer: Peer, transport: Transport
) -> None:
    """They hold no other header."""
    assert isinstance(await sent(transport, peer.url, headers=[("X", "a\tb\u00e9")]), Answer)
    assert 1 == len(peer.requests)


@pytest.mark.parametrize("method", ["G ET", "GET /other HTTP/1.1\r\nX:", "G\0ET"])
async def test_no_method_holds_more_than_a_method(
    peer: Peer, transport: Transport, method: str
) -> None:
    """It is not sent, which is certain."""
    lost = await sent(transport, peer.url, method=method)
    assert isinstance(lost, Lost) and lost.certain, lost
    assert [] == peer.requests


@pytest.mark.parametrize(
    "path",
    ["/c#1/refund", "/c 1", "/c\t1", "/c\r\n1", "/c\x7f1", "/c\ud8001", "/c/../refund", "/c/%2E"],
)
async def test_no_path_leads_to_another_resource(
    peer: Peer, transport: Transport, path: str
) -> None:
    """A journal of an older release may hold one. It is not sent, which is certain."""
    lost = await sent(transport, peer.url + path)
    assert isinstance(lost, Lost) and lost.certain and lost.reason.startswith("not sent: "), lost
    assert [] == peer.requests


async def test_only_http_is_spoken(peer: Peer, transport: Transport) -> None:
    """Another scheme in the address makes no difference."""
    assert isinstance(await sent(transport, peer.url.replace("http:", "ftp:")), Lost)
    assert 0 == peer.connections


async def test_credentials_in_the_url_are_sent_as_a_header(
    peer: Peer, transport: Transport
) -> None:
    """Beside a header of that name they are refused: one of the two is a mistake."""
    url = peer.url.replace("://", "://me:secret@")
    await sent(transport, url)
    assert ["Basic bWU6c2VjcmV0"] == peer.head()["authorization"]
    assert [peer.url.removeprefix("http://")] == peer.head()["host"]
    assert isinstance(await sent(transport, url, headers=[("authorization", "other")]), Lost)
    assert 1 == len(peer.requests)


async def test_an_answer_that_nobody_asked_for_is_not_taken() -> None:
    """Bytes on an idle connection are not the answer to the next request."""
    stray, came = asyncio.Event(), asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            if connections == 1:
                await stray.wait()
                writer.write(OK.replace(b"{}", b"[]"))
                await writer.drain()
                came.set()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = Transport()
    await transport.open()
    try:
        for _ in range(2):
            answer = await transport.send(
                "GET", f"http://127.0.0.1:{port}/", headers=[], body=b"", timeout=SECONDS
            )
            assert isinstance(answer, Answer)
            assert b"{}" == answer.body
            stray.set()
            await came.wait()
            await asyncio.sleep(0.1)  # until it is here: nothing tells of it
    finally:
        await transport.close()
        server.close()
    assert 2 == connections


async def test_an_answer_that_comes_during_the_last_look_is_not_taken() -> None:
    """While a lease is waited for, a server says something of the request before, or hangs up."""
    looks, stray, came = 0, asyncio.Event(), asyncio.Event()

    async def assured() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            stray.set()
            await came.wait()
            await asyncio.sleep(0.05)  # until it is here: nothing tells of it

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            if not stray.is_set():
                await stray.wait()
                writer.write(OK.replace(b"{}", b"[]"))
                await writer.drain()
                came.set()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    transport = Transport(assured)
    await transport.open()
    try:
        answers = [await sent(transport, url) for _ in range(2)]
    finally:
        await transport.close()
        server.close()

    assert [b"{}", b"{}"] == [each.body for each in answers if isinstance(each, Answer)]
    assert 3 == looks
