"""Asks a downstream as a stage does, and reads its answers as a stage does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from aiohttp import hdrs

from stage.neighbours.shared.tls import connector
from stage.neighbours.shared.tokens import Keys
from stage.wire import headers as h
from stage.wire.envelope import format_instant, new_saga_id, path_of_saga
from stage.wire.replies import (
    CompensateReplyKind,
    ReplyKind,
    kind_of_compensate_reply,
    kind_of_reply,
)

ANSWER_SECONDS_MAX = 30.0
PAUSE_SECONDS = 0.2
BUDGET_SECONDS = 20.0
TRIES_MAX = 8
"""As often a stage sends a request whose answer is lost, unknown or not now."""
SETTLE_SECONDS_MAX = 60.0
"""How long a neighbour may go on with 202 before it counts as one that never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; a status of 0 is none."""

    status: int
    body: bytes = b""

    def shown(self) -> str:
        """The answer in a line."""
        if not self.status:
            return "no answer"
        return f"{self.status} {self.body[:120].decode('utf-8', 'replace')}".rstrip()


class Caller:
    """A stage called `name` before the downstream at that URL."""

    def __init__(self, url: str, name: str, keys: Keys, data: Mapping[str, Any]) -> None:
        """`data` is what the downstream accepts."""
        self._url = url.rstrip("/")
        self.name = name
        self._keys = keys
        self._session: aiohttp.ClientSession | None = None
        self.data = dict(data)

    def open(self) -> aiohttp.ClientSession:
        """The session, in which everything is asked."""
        self._session = aiohttp.ClientSession(
            connector=connector(self._keys.trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**self._keys.headers, hdrs.ACCEPT_ENCODING: "identity"},
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX),
        )
        return self._session

    async def start(
        self,
        saga_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        budget_seconds: float | None = BUDGET_SECONDS,
        clock_ahead_seconds: float = 0.0,
    ) -> Reply:
        """`POST /sagas`; its trail and its deadline are new each time.

        The clock of the downstream is taken to be ahead by so much: its deadline is as long over.
        Without a budget only the deadline is said, which is over.
        """
        now = time.time() - clock_ahead_seconds
        left = -1.0 if budget_seconds is None else budget_seconds
        envelope = {
            "saga_id": saga_id,
            "protocol": 1,
            "deadline": format_instant(now + left),
            "data": dict(self.data if data is None else data),
            "trail": [{"stage": self.name, "at": format_instant(now)}],
        }
        headers = {
            h.IDEMPOTENCY_KEY: saga_id,
            h.PREFER: "wait=10",
        }
        if budget_seconds is not None:
            headers[h.SAGA_BUDGET_MS] = str(int(budget_seconds * 1000))
        return await self.post("/sagas", msgspec.json.encode(envelope), headers)

    async def settled(
        self,
        saga_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        budget_seconds: float | None = BUDGET_SECONDS,
    ) -> Reply:
        """The answer to a start that a stage would not send again."""
        tries = _Tries()
        while True:
            reply = await self.start(saga_id, data, budget_seconds=budget_seconds)
            kind = self.kind(saga_id, reply)
            again = {ReplyKind.ACCEPTED, ReplyKind.NOT_NOW, ReplyKind.UNKNOWN}
            if kind not in again or not await tries.more(runs=kind is ReplyKind.ACCEPTED):
                return reply

    async def compensate(self, saga_id: str, body: Mapping[str, str] | None = None) -> Reply:
        """The answer to `POST /sagas/{id}/compensate` that a stage would not ask for again."""
        asked = {"requested_by": self.name, "reason": "conformance"} if body is None else body
        encoded = msgspec.json.encode(asked) if asked else b""
        tries = _Tries()
        while True:
            reply = await self.post(f"{path_of_saga(saga_id)}/compensate", encoded)
            kind = kind_of_compensate_reply(reply.status, reply.body, saga_id)
            final = {CompensateReplyKind.COMPENSATED, CompensateReplyKind.CANNOT}
            runs = kind is CompensateReplyKind.ACCEPTED
            if kind in final or not await tries.more(runs=runs):
                return reply

    async def query(self, saga_id: str) -> Reply:
        """`GET /sagas/{id}`."""
        return await self._send("GET", path_of_saga(saga_id), None, {})

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Any POST with a body of JSON."""
        return await self._send(
            "POST", path, body, {hdrs.CONTENT_TYPE: h.CONTENT_JSON, **(headers or {})}
        )

    @staticmethod
    def kind(saga_id: str, reply: Reply) -> ReplyKind:
        """The meaning of an answer to a start."""
        return kind_of_reply(reply.status, reply.body, saga_id)

    @staticmethod
    def new_id() -> str:
        """An id that nobody has seen."""
        return new_saga_id()

    async def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        assert self._session is not None, "open it first"
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return Reply(status=answer.status, body=await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Reply(status=0)


class _Tries:
    """How often, and for how long, one thing is asked for."""

    def __init__(self) -> None:
        self._left = TRIES_MAX
        self._until = time.monotonic() + SETTLE_SECONDS_MAX

    async def more(self, *, runs: bool) -> bool:
        """Whether to ask once more, behind a pause; one that runs may be asked for a while."""
        self._left -= not runs
        if not self._left or time.monotonic() > self._until:
            return False
        await asyncio.sleep(PAUSE_SECONDS)
        return True
