"""The requests to the stage. A failure of the network is a value, never an exception.

Each request has a timeout, follows no redirect, is sent once, and reads no more than the limit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs
from yarl import URL

from stage.neighbours.shared.spans import ClientRequest, Spans
from stage.neighbours.shared.tls import connector
from stage.neighbours.shared.tokens import Keys
from stage.neighbours.shared.trace import Trace
from stage.neighbours.upstream.books import Saga
from stage.wire.envelope import Envelope, encode_envelope, parse_instant, path_of_saga
from stage.wire.headers import (
    CONTENT_JSON,
    IDEMPOTENCY_KEY,
    LOCATION,
    PREFER,
    RETRY_AFTER,
    SAGA_BUDGET_MS,
)
from stage.wire.http import parse_retry_after
from stage.wire.limits import DEFAULT_LIMITS
from stage.wire.replies import encode_compensate

WAIT_SHARE = 0.8
"""The share of a timeout that the stage may wait, so that its 202 comes in time."""
NOT_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Without a connection no request was sent: nothing happened at the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, read whole."""

    status: int
    body: bytes
    retry_after: float | None
    location: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """No answer. `certain`: the request never left, so nothing happened."""

    reason: str
    certain: bool


class StageClient:
    """The stage behind this neighbour, at a configured URL. `patience_seconds` bounds a request."""

    def __init__(self, url: str, patience_seconds: float, spans: Spans, keys: Keys) -> None:
        self._url = url.rstrip("/")
        self._spans = spans
        self._keys = keys
        self.patience_seconds = patience_seconds
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> aiohttp.ClientSession:
        """The session, to be closed with the application. It keeps no cookies."""
        self._session = aiohttp.ClientSession(
            connector=connector(self._keys.trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=self._keys.headers,
        )
        return self._session

    async def execute(self, envelope: Envelope, trace: Trace, left_seconds: float) -> Reply | Lost:
        """`POST /sagas`. The same envelope gives the same bytes; the budget is measured anew."""
        timeout = min(self.patience_seconds, left_seconds)
        headers = {
            hdrs.CONTENT_TYPE: CONTENT_JSON,
            IDEMPOTENCY_KEY: envelope.saga_id,
            SAGA_BUDGET_MS: str(max(0, int(left_seconds * 1000))),
            **_wait(timeout),
        }
        url = f"{self._url}/sagas"
        with self._spans.client("POST", url, "/sagas", trace) as sent:
            return await self._send(sent, "POST", url, headers, encode_envelope(envelope), timeout)

    async def get_saga(
        self, saga_id: str, location: str | None, trace: Trace, left_seconds: float
    ) -> Reply | Lost:
        """`GET` the Location of a 202. A Location on another host is not followed."""
        own = URL(self._url + path_of_saga(saga_id))
        url = URL(f"{self._url}/sagas").join(URL(location)) if location else own
        if url.origin() != own.origin():
            url = own
        timeout = min(self.patience_seconds, left_seconds)
        with self._spans.client("GET", str(url), "/sagas/{saga_id}", trace) as sent:
            return await self._send(sent, "GET", str(url), _wait(timeout), None, timeout)

    async def compensate(self, saga: Saga, requested_by: str, reason: str) -> Reply | Lost:
        """`POST /sagas/{id}/compensate`. No deadline ends it."""
        url = f"{self._url}{path_of_saga(saga.saga_id)}/compensate"
        opened_at = parse_instant(saga.opened_at)
        with self._spans.client("POST", url, "/sagas/{saga_id}/compensate", saga.trace) as sent:
            return await self._send(
                sent,
                "POST",
                url,
                {hdrs.CONTENT_TYPE: CONTENT_JSON},
                encode_compensate(requested_by, reason, first_sent_at=opened_at),
                self.patience_seconds,
            )

    async def _send(
        self,
        sent: ClientRequest,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float,
    ) -> Reply | Lost:
        if self._session is None:
            raise RuntimeError("the session is not open: it lives as long as the application")
        try:
            async with self._session.request(
                method,
                url,
                headers={**headers, **sent.headers, hdrs.ACCEPT_ENCODING: "identity"},
                data=body,
                timeout=aiohttp.ClientTimeout(total=timeout),
                allow_redirects=False,
            ) as response:
                read = await _read(response)
        except NOT_SENT as error:
            sent.ended("refused")
            return Lost(reason=f"no connection: {type(error).__name__}", certain=True)
        except TimeoutError:
            sent.ended("timeout")
            return Lost(reason="no answer in time", certain=False)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            sent.ended("broken")
            return Lost(reason=f"connection broken: {type(error).__name__}", certain=False)
        sent.ended(response.status)
        if read is None:
            return Lost(reason="the answer is too large", certain=False)
        return Reply(
            status=response.status,
            body=read,
            retry_after=parse_retry_after(response.headers.get(RETRY_AFTER), time.time()),
            location=response.headers.get(LOCATION),
        )


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None if it is larger than the protocol allows."""
    parts = bytearray()
    async for part in response.content.iter_any():
        parts += part
        if len(parts) > DEFAULT_LIMITS.body_bytes_max:
            response.close()
            return None
    return bytes(parts)


def _wait(timeout_seconds: float) -> dict[str, str]:
    wait = int(timeout_seconds * WAIT_SHARE)
    return {PREFER: f"wait={wait}"} if wait else {}
