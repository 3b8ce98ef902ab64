"""One HTTP request out: once, without redirects, capped, within a time. Never raises for the world.

The session is ours: no cookies, no proxies from the environment, no silent resend.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache

import aiohttp
from yarl import URL

from stage.outbound.classify import EXPECTED, classify_exception
from stage.ports.stage import Answer, Lost

ANSWER_BYTES_MAX = 1_048_576
CONNECT_SECONDS_MAX = 5.0
CONNECT_SHARE = 0.9
"""Of the timeout: a connection that never came about must be known as such, not as a timeout."""


class Transport:
    """A pool of connections with our rules. Open it in the event loop that uses it."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Create the pool."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # bounded by the sender, before it starts
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"User-Agent": "stage", "Accept-Encoding": "identity"},
        )
        # aiohttp repeats GET, PUT and DELETE once on a connection that broke. Repeating is our
        # decision, after the doubt is journaled.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout: float,
    ) -> Answer | Lost:
        """Send once and read the whole answer; `timeout` in seconds covers both."""
        assert self._session is not None, "open the transport first"
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                timeout=_limits(timeout),
            ) as response:
                return await _read(response)
        except EXPECTED as error:
            return classify_exception(error)
        except asyncio.IncompleteReadError as error:
            return classify_exception(error)


@lru_cache(maxsize=256)
def _limits(timeout: float) -> aiohttp.ClientTimeout:
    """Few values: a budget makes its own, and is forgotten soon."""
    connect = min(timeout * CONNECT_SHARE, CONNECT_SECONDS_MAX)
    return aiohttp.ClientTimeout(total=timeout, connect=connect)


async def _read(response: aiohttp.ClientResponse) -> Answer | Lost:
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        return Lost(
            reason=f"answered {response.status} in encoding {encoding!r}, not asked for",
            error=str(response.status),
        )
    content = response.content
    body = await content.readany()  # most answers are whole by now
    while not content.at_eof() and len(body) <= ANSWER_BYTES_MAX:
        body += await content.readany()
    if len(body) > ANSWER_BYTES_MAX:
        response.close()
        return Lost(
            reason=f"answered {response.status} with more than {ANSWER_BYTES_MAX} bytes",
            error=str(response.status),
        )
    return Answer(status=response.status, headers=tuple(response.headers.items()), body=body)
