"""The answer to a direct request, written as one piece of bytes.

aiohttp's own response asks a multidict for each header that it adds, and hands head and body
through five coroutines of which none waits. The bytes are the same.
"""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from time import time
from typing import Final

from aiohttp import ClientConnectionResetError, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from stage.inbound.request import Answer
from stage.wire.http import encode_head

BODY_BYTES_MAX: Final = 32_768
"""A larger body is left to aiohttp, which waits until its reader has taken it."""
_STATUS_LINES: Final = {
    code.value: f"HTTP/1.1 {code.value} {code.phrase}"
    for code in HTTPStatus
    if code >= HTTPStatus.OK and code not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
}
"""By the code of an answer that has a body."""


class DirectResponse(web.StreamResponse):
    """One `Answer`. Only for a request that `fits`: no signal and no middleware sees it."""

    def __init__(self, answered: Answer, server: str) -> None:
        """`server` is the value of the header Server."""
        super().__init__(status=answered.status)
        self._answered = answered
        self._server = server
        self._keeps = not answered.close
        self._request: web.BaseRequest | None = None

    @property
    def keep_alive(self) -> bool:
        """See `web.StreamResponse`."""
        return self._keeps

    def force_close(self) -> None:
        """See `web.StreamResponse`."""
        self._keeps = False

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """See `web.StreamResponse`. Nothing is written before the end."""
        self._request = request
        self._keeps = self._keeps and request.keep_alive
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """See `web.StreamResponse`."""
        assert self._request is not None, "prepare it first"
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("Cannot write to closing transport")
        answered = self._answered
        lines = [_STATUS_LINES[answered.status]]
        lines += [f"{name}: {value}" for name, value in answered.headers]
        lines.append(f"Server: {self._server}")
        lines.append(f"Content-Length: {len(answered.body)}")
        lines.append(_date_line(int(time())))
        if not self._keeps:
            lines.append("Connection: close")
        transport.write(encode_head(lines) + answered.body)


def fits(answered: Answer, request: web.BaseRequest) -> bool:
    """Whether the answer may leave in one piece: its reader takes what is written, and speaks 1.1.

    A slow reader gets this small answer all the same, and only the next one waits for it.
    """
    return (
        request.version == HttpVersion11
        and not request.protocol.writing_paused
        and len(answered.body) <= BODY_BYTES_MAX
        and answered.status in _STATUS_LINES
    )


@lru_cache(maxsize=2)
def _date_line(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}"
