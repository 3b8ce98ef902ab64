"""The demo's own small HTTP client: posts orders, sets scripts, reads books, waits for a state."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp
import msgspec

from stage.demo.chain import ChainError, Service
from stage.demo.tokens import Keys
from stage.demo.trace import StorySpan
from stage.wire.headers import TRACEPARENT
from stage.wire.tokens import AUTHORIZATION, BEARER

POLL_SECONDS = 0.05
TIMEOUT_SECONDS = 10.0
UNTIL_SECONDS_MAX = 60.0


class Reply(msgspec.Struct, frozen=True):
    """An answer: its code and its bytes."""

    status: int
    body: bytes


class Client:
    """Talks to the four services. Use it as an async context manager.

    Posted requests belong to the trace of the `story`; queries and scripts do not.
    """

    story: StorySpan | None = None

    def __init__(
        self, stage: str = "", keys: Keys | None = None, trusted: ssl.SSLContext | None = None
    ) -> None:
        """`keys` are shown to the service at `stage`: order's to post, otherwise a person's.

        `trusted` is the TLS of all services, None the usual one.
        """
        self._stage = stage
        self._keys = keys
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trusted or True)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def request(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Reply:
        """Send one request and return the answer of any status."""
        assert self._session is not None
        trace = {}
        if self.story is not None:
            traceparent = self.story.traceparent if method == "POST" else self.story.aside
            trace[TRACEPARENT] = traceparent
        async with self._session.request(
            method,
            url,
            data=body,
            headers={
                "Content-Type": "application/json",
                **trace,
                **self._shown(method, url),
                **(headers or {}),
            },
            timeout=aiohttp.ClientTimeout(total=timeout),
        ) as response:
            return Reply(response.status, await response.read())

    def _shown(self, method: str, url: str) -> dict[str, str]:
        """The token for a request to the stage; nobody else is shown one."""
        if self._keys is None or not url.startswith(self._stage):
            return {}
        link = "order-payment" if method == "POST" else "operator"
        return {AUTHORIZATION: f"{BEARER} {self._keys.token(link)}"}

    async def post(
        self,
        url: str,
        value: Any,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Reply:
        """POST a value as JSON."""
        return await self.request("POST", url, msgspec.json.encode(value), headers, timeout)

    async def post_bytes(self, url: str, body: bytes) -> Reply:
        """POST these bytes as JSON."""
        return await self.request("POST", url, body, timeout=30.0)

    async def get(self, url: str) -> Any:
        """The decoded JSON of a GET, or None for 404."""
        reply = await self.request("GET", url)
        return None if reply.status == 404 else msgspec.json.decode(reply.body)

    async def script(self, service: Service, script: Mapping[str, Any]) -> None:
        """Let a stub or the external API misbehave from now on. Raises ChainError."""
        reply = await self.request("PUT", f"{service.url}/script", msgspec.json.encode(script))
        if reply.status != 200:
            raise ChainError(f"{service.name} did not take the script: {reply.body!r}")

    async def saga(self, service: Service, saga_id: str) -> dict[str, Any] | None:
        """The view of a saga at a service, or None if the service never saw it."""
        found: dict[str, Any] | None = await self.get(f"{service.url}/sagas/{saga_id}")
        return found

    async def journal(self, stage: Service, saga_id: str) -> list[dict[str, Any]]:
        """The journal of a saga at the stage."""
        view = await self.get(f"{stage.url}/sagas/{saga_id}?view=journal")
        return [] if view is None else list(view["entries"])

    async def events(self, stage: Service, saga_id: str) -> list[str]:
        """The names of the journal's events."""
        return [entry["event"] for entry in await self.journal(stage, saga_id)]

    async def charges(self, psp: Service, saga_id: str) -> tuple[int, int]:
        """Charges made and still standing for a saga, by the books of the external API."""
        books = await self.get(f"{psp.url}/charges")
        mine = [entry for entry in books["charges"] if entry["key"].startswith(f"{saga_id}:")]
        return sum(entry["made"] for entry in mine), sum(entry["standing"] for entry in mine)

    async def until(
        self, service: Service, saga_id: str, holds: Callable[[Mapping[str, Any]], bool]
    ) -> None:
        """Return when the view of the saga holds. Raises ChainError after UNTIL_SECONDS_MAX."""
        await self._poll(
            lambda: self._holds(service, saga_id, holds), f"{service.name} of saga {saga_id}"
        )

    async def _holds(
        self, service: Service, saga_id: str, holds: Callable[[Mapping[str, Any]], bool]
    ) -> bool:
        saga = await self.saga(service, saga_id)
        return saga is not None and holds(saga)

    async def until_charged(self, psp: Service, saga_id: str) -> None:
        """Return when the charge has landed. Raises ChainError after UNTIL_SECONDS_MAX."""

        async def landed() -> bool:
            return await self.charges(psp, saga_id) == (1, 1)

        await self._poll(landed, f"the charge of saga {saga_id}")

    async def _poll(self, ask: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(UNTIL_SECONDS_MAX):
                while not await ask():  # noqa: ASYNC110 - another process changes it
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise ChainError(f"{what}: not there after {UNTIL_SECONDS_MAX:g} s") from None
