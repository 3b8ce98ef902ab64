"""An answer that leaves in one piece is, byte for byte, what aiohttp would have written."""

from __future__ import annotations

import asyncio
import re
from typing import Any, cast

import pytest
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from stage.inbound.aiohttp_response import BODY_BYTES_MAX, DirectResponse, fits
from stage.inbound.request import JSON, PROBLEM_JSON, Answer

DATE = re.compile(rb"Date: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n")
TRACE = ("Trace-Id", "4bf92f3577b34da6a3ce929d0e0e4736")
SAGA = ("Saga-Id", "s-1")
ANSWERS = {
    "executed": Answer(headers=(JSON, SAGA, TRACE), body=b'{"outcome":"executed"}'),
    "accepted": Answer(
        status=202, headers=(JSON, ("Location", "sagas/s-1"), ("Retry-After", "1")), body=b"{}"
    ),
    "problem": Answer(status=409, headers=(PROBLEM_JSON, SAGA), body=b'{"title":"No"}'),
    "said twice": Answer(
        status=401, headers=(JSON, ("Allow", "GET"), ("Allow", "POST")), body=b"{}"
    ),
    "closing": Answer(status=413, headers=(PROBLEM_JSON,), body=b"{}", close=True),
    "nothing": Answer(status=200, headers=(JSON,)),
}


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, *, closing: bool = False) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self._closing = closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self._closing


def requested(transport: Transport, *, keeps: bool = True, version: Any = HttpVersion11) -> Any:
    protocol = BaseProtocol(asyncio.get_running_loop())
    protocol.transport = transport
    request = make_mocked_request(
        "POST",
        "/sagas",
        version=version,
        closing=not keeps,
        transport=transport,
        writer=StreamWriter(protocol, asyncio.get_running_loop()),
    )
    cast(Any, request.protocol).writing_paused = False
    return request


async def written(response: web.StreamResponse, transport: Transport, *, keeps: bool) -> bytes:
    await response.prepare(requested(transport, keeps=keeps))
    await response.write_eof()
    return b"".join(transport.written)


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "closed by its caller"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_it_is_what_aiohttp_would_have_written(answer: Answer, keeps: bool) -> None:
    """Also where either side ends the connection. Only the second may differ."""
    theirs = web.Response(
        status=answer.status,
        body=answer.body,
        headers=CIMultiDict((*answer.headers, ("Server", "stage"))),
    )
    if answer.close:
        theirs.force_close()
    ours, piece = DirectResponse(answer, "stage"), Transport()

    expected = await written(theirs, Transport(), keeps=keeps)
    found = await written(ours, piece, keeps=keeps)

    assert DATE.sub(b"", expected) == DATE.sub(b"", found)
    assert 1 == len(DATE.findall(found))
    assert 1 == len(piece.written)
    assert bool(theirs.keep_alive) is ours.keep_alive


async def test_a_stage_that_retires_says_so_with_the_answer() -> None:
    """The server forces it once the answer is made."""
    response = DirectResponse(ANSWERS["executed"], "stage")
    response.force_close()

    assert b"\r\nConnection: close\r\n\r\n" in await written(response, Transport(), keeps=True)
    assert not response.keep_alive


async def test_a_line_break_in_a_header_is_never_written() -> None:
    """It would begin another header, or another answer."""
    transport = Transport()
    answer = Answer(headers=(JSON, ("Location", "sagas/s-1\r\nSet-Cookie: a=b")), body=b"{}")

    with pytest.raises(ValueError, match="control character"):
        await written(DirectResponse(answer, "stage"), transport, keeps=True)
    assert not transport.written


async def test_a_connection_that_is_gone_is_no_defect() -> None:
    """aiohttp takes a ConnectionError for what it is."""
    with pytest.raises(ConnectionError):
        await written(
            DirectResponse(ANSWERS["executed"], "stage"), Transport(closing=True), keeps=True
        )


async def test_where_it_does_not_fit_aiohttp_writes() -> None:
    """A large body and a slow reader are waited for; an old client is told that it is kept."""
    answer = ANSWERS["executed"]
    large = Answer(headers=(JSON,), body=b" " * (BODY_BYTES_MAX + 1))
    slow = requested(Transport())
    slow.protocol.writing_paused = True

    assert fits(answer, requested(Transport()))
    assert not fits(large, requested(Transport()))
    assert not fits(answer, slow)
    assert not fits(answer, requested(Transport(), version=HttpVersion10))
    assert not fits(Answer(status=204), requested(Transport()))
