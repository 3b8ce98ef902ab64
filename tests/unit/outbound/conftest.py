"""The ends of connections, as the event loop hears of them."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.client_proto import ResponseHandler


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[None]:
    """Has an item for each connection of ours of whose end the event loop has heard."""
    items: asyncio.Queue[None] = asyncio.Queue()
    lost = ResponseHandler.connection_lost

    def heard(protocol: ResponseHandler, error: BaseException | None) -> None:
        lost(protocol, error)
        items.put_nowait(None)

    monkeypatch.setattr(ResponseHandler, "connection_lost", heard)
    return items
