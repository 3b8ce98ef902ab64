"""A chain of real processes a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stage.demo.chain import Chain
from stage.demo.client import Client


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Chain]:
    """order, payment, shipping and psp, each a process of its own."""
    chain = Chain(tmp_path)
    try:
        await chain.start()
        yield chain
    finally:
        await chain.stop()


@pytest.fixture
async def client(processes: Chain) -> AsyncIterator[Client]:
    async with Client(processes.payment.url, processes.keys) as talking:
        yield talking
