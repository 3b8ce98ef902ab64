"""Asks a downstream as a stage does, and reads its answers as a stage does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp import hdrs

from stage.neighbours.shared.tls import connector
from stage.neighbours.shared.tokens import Keys
from stage.wire import headers as h
from stage.wire.envelope import format_instant, new_saga_id
from stage.wire.replies import (
    CompensateReplyKind,
    ReplyKind,
    kind_of_compensate_reply,
    kind_of_reply,
)

ANSWER_SECONDS_MAX = 30.0
PAUSE_SECONDS = 0.2
BUDGET_SECONDS = 20.0
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
        self._name = name
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
        budget_seconds: float = BUDGET_SECONDS,
    ) -> Reply:
        """`POST /sagas`; its trail and its deadline are new each time."""
        now = time.time()
        envelope = {
            "saga_id": saga_id,
            "protocol": 1,
            "deadline": format_instant(now + budget_seconds),
            "data": dict(self.data if data is None else data),
            "trail": [{"stage": self._name, "at": format_instant(now)}],
        }
        headers = {
            h.IDEMPOTENCY_KEY: saga_id,
            h.SAGA_BUDGET_MS: str(int(budget_seconds * 1000)),
            h.PREFER: "wait=10",
        }
        return await self.post("/sagas", msgspec.json.encode(envelope), headers)

    async def settled(self, saga_id: str, data: Mapping[str, Any] | None = None) -> Reply:
        """The answer to a start, asked for until it is another than 202."""
        until = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            reply = await self.start(saga_id, data)
            runs = self.kind(saga_id, reply) is ReplyKind.ACCEPTED
            if not runs or time.monotonic() > until:
                return reply
            await asyncio.sleep(PAUSE_SECONDS)

    async def compensate(self, saga_id: str, body: Mapping[str, str] | None = None) -> Reply:
        """`POST /sagas/{id}/compensate`, asked until it is another answer than 202."""
        asked = {"requested_by": self._name, "reason": "conformance"} if body is None else body
        encoded = msgspec.json.encode(asked) if asked else b""
        until = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            reply = await self.post(f"{_path(saga_id)}/compensate", encoded)
            kind = kind_of_compensate_reply(reply.status, reply.body, saga_id)
            if kind is not CompensateReplyKind.ACCEPTED or time.monotonic() > until:
                return reply
            await asyncio.sleep(PAUSE_SECONDS)

    async def query(self, saga_id: str) -> Reply:
        """`GET /sagas/{id}`."""
        return await self._send("GET", _path(saga_id), None, {})

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


def _path(saga_id: str) -> str:
    return f"/sagas/{quote(saga_id, safe='~:')}"
