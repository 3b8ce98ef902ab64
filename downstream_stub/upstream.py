"""Tells the stage upstream that this neighbour failed late: it must compensate too."""

from __future__ import annotations

import asyncio
import random
import time
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs

from downstream_stub.books import Saga
from downstream_stub.spans import Spans
from stage.wire.headers import CONTENT_JSON, RETRY_AFTER
from stage.wire.http import parse_retry_after
from stage.wire.replies import (
    CompensateReplyKind,
    encode_compensate,
    kind_of_compensate_reply,
)

ATTEMPT_SECONDS = 15.0
CONNECT_SECONDS = 2.0
BACKOFF_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 2.0
RETRY_AFTER_SECONDS_MAX = 30.0
COMPENSATE = "/sagas/{saga_id}/compensate"
REASON = "failed after it had answered"


class Upstream:
    """The stage that called us, found by configuration and never by what a body says."""

    def __init__(self, url: str, spans: Spans) -> None:
        self._url = url.rstrip("/")
        self._spans = spans
        self.session: aiohttp.ClientSession | None = None

    def open(self) -> aiohttp.ClientSession:
        """A session that keeps no cookies and no connection for longer than it must."""
        self.session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS, connect=CONNECT_SECONDS),
        )
        return self.session

    async def have_compensated(self, saga: Saga, *, requested_by: str) -> None:
        """Call compensate until it is answered: done, taken over, cannot, or forgotten."""
        backoff = BACKOFF_SECONDS
        while True:
            reply, retry_after = await self._ask(saga, requested_by)
            saga.tried_to_tell(reply)
            if reply not in (CompensateReplyKind.NOT_NOW, CompensateReplyKind.UNKNOWN):
                return
            wait = backoff * random.uniform(0.5, 1.0)
            if retry_after is not None:
                wait = max(wait, min(retry_after, RETRY_AFTER_SECONDS_MAX))
            await asyncio.sleep(wait)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    async def _ask(self, saga: Saga, requested_by: str) -> tuple[CompensateReplyKind, float | None]:
        if self.session is None:
            raise RuntimeError("the session is not open: it lives as long as the application")
        url = f"{self._url}/sagas/{quote(saga.saga_id, safe='~:')}/compensate"
        with self._spans.asking("POST", url, COMPENSATE, saga.trace) as asking:
            try:
                async with self.session.post(
                    url,
                    data=encode_compensate(requested_by, REASON),
                    headers={hdrs.CONTENT_TYPE: CONTENT_JSON, **asking.headers},
                    allow_redirects=False,
                ) as response:
                    asking.ended(response.status)
                    # The code says it all; the body is not read, and the connection is closed.
                    retry_after = response.headers.get(RETRY_AFTER)
                    return kind_of_compensate_reply(response.status), (
                        None if retry_after is None else parse_retry_after(retry_after, time.time())
                    )
            except (aiohttp.ClientError, TimeoutError, OSError):
                asking.ended("broken")
                return CompensateReplyKind.UNKNOWN, None
