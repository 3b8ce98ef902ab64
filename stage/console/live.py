"""Tells pages that something has changed, as server-sent events; a page then asks for itself again.

Each answer is whole, and the browser asks again by itself after the `retry` that it names. So no
connection is held, and a stage that drains waits for no page.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from stage.console.asks import Reader
from stage.console.draw import SAFETY
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.envelope import path_of_saga
from stage.wire.views import GroupsView, NowView, PausesView, SagaView, SweepsView

EVENTS: Final = ("Content-Type", "text/event-stream; charset=utf-8")
AGAIN_SECONDS: Final = 5.0
ASKED_MAX: Final = 40
"""Pages that are told within AGAIN_SECONDS. A further one is told to stop asking, which is 204."""
KEPT_SECONDS: Final = 2.0
"""All pages that ask within this time are told of one look."""


class Live:
    """The pages of one stage that follow by themselves."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._asked: deque[float] = deque()
        self._looked_at = float("-inf")
        self._mark = ""

    async def answer(self, service: Service, request: Request) -> Answer:
        """One event where something has changed since the one that the page had last."""
        now = self._monotonic()
        while self._asked and self._asked[0] <= now - AGAIN_SECONDS:
            self._asked.popleft()
        if len(self._asked) >= ASKED_MAX:
            return Answer(status=204, headers=SAFETY)
        self._asked.append(now)
        if now - self._looked_at >= KEPT_SECONDS:
            self._looked_at, self._mark = now, await _mark(Reader(service, request))
        mark = self._mark + await _change_of(Reader(service, request))
        had = request.headers.get("Last-Event-ID", "")
        event = "" if had == mark else f"id: {mark}\nevent: changed\ndata: now\n"
        body = f"retry: {AGAIN_SECONDS * 1_000:.0f}\n{event}\n"
        return Answer(headers=(EVENTS, *SAFETY), body=body.encode())


async def _change_of(reader: Reader) -> str:
    """The last change of the saga that the page shows: no count may tell it. Empty without one."""
    saga_id = reader.request.query_values().get("saga", [""])[0]
    if not saga_id:
        return ""
    found = await reader.get(SagaView, path_of_saga(saga_id))
    return f"-{found.updated_at}"


async def _mark(reader: Reader) -> str:
    """A short word for what the pages show, without ages and sizes, which change all the time."""
    now = await reader.get(NowView, "/now")
    groups = await reader.get(GroupsView, "/groups")
    shown = (
        msgspec.structs.replace(now, at="", lately=None, places=[], database_bytes={}),
        [msgspec.structs.replace(each, oldest_seconds=0.0) for each in groups.groups],
        await reader.get(PausesView, "/pauses"),
        await reader.get(SweepsView, "/sweeps"),
    )
    return hashlib.sha256(msgspec.json.encode(shown)).hexdigest()[:16]
