"""Asks the stage upstream to compensate after a late failure here."""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp
from aiohttp import hdrs

from stage.neighbours.downstream.books import Saga
from stage.neighbours.shared.spans import Spans
from stage.neighbours.shared.tls import connector
from stage.neighbours.shared.tokens import Keys
from stage.wire.envelope import path_of_saga
from stage.wire.headers import CONTENT_JSON, RETRY_AFTER
from stage.wire.http import parse_retry_after
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.outcome import Outcome
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
FINAL = frozenset(
    {CompensateReplyKind.COMPENSATED, CompensateReplyKind.ACCEPTED, CompensateReplyKind.CANNOT}
)


class Upstream:
    """The stage upstream, at a configured URL: no address is taken from a body."""

    def __init__(self, url: str, spans: Spans, keys: Keys) -> None:
        self._url = url.rstrip("/")
        self._spans = spans
        self._keys = keys
        self.session: aiohttp.ClientSession | None = None

    def open(self) -> aiohttp.ClientSession:
        """The session, to be closed with the application. It keeps no cookies."""
        self.session = aiohttp.ClientSession(
            connector=connector(self._keys.trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._keys.headers,
            timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS, connect=CONNECT_SECONDS),
        )
        return self.session

    async def have_compensated(self, saga: Saga, *, requested_by: str) -> None:
        """Call compensate until the reply is final: done, accepted, cannot, or gone."""
        backoff = BACKOFF_SECONDS
        while True:
            reply, retry_after = await self._ask(saga, requested_by)
            saga.tried_to_tell(reply)
            if reply in FINAL:
                return
            wait = backoff * random.uniform(0.5, 1.0)
            if retry_after is not None:
                wait = max(wait, min(retry_after, RETRY_AFTER_SECONDS_MAX))
            await asyncio.sleep(wait)
            backoff = min(backoff * 2, BACKOFF_SECONDS_MAX)

    async def _ask(self, saga: Saga, requested_by: str) -> tuple[CompensateReplyKind, float | None]:
        if self.session is None:
            raise RuntimeError("the session is not open: it lives as long as the application")
        url = f"{self._url}{path_of_saga(saga.saga_id)}/compensate"
        with self._spans.client("POST", url, COMPENSATE, saga.trace) as sent:
            try:
                async with self.session.post(
                    url,
                    data=encode_compensate(requested_by, REASON, Outcome.COMPENSATED),
                    headers={hdrs.CONTENT_TYPE: CONTENT_JSON, **sent.headers},
                    allow_redirects=False,
                ) as response:
                    sent.ended(response.status)
                    body = await response.content.read(DEFAULT_LIMITS.body_bytes_max)
                    reply = kind_of_compensate_reply(response.status, body, saga.saga_id)
                    retry_after = response.headers.get(RETRY_AFTER)
                    return reply, (
                        None if retry_after is None else parse_retry_after(retry_after, time.time())
                    )
            except (aiohttp.ClientError, TimeoutError, OSError):
                sent.ended("broken")
                return CompensateReplyKind.AWAY, None
