"""Calls between workers: values and errors come through, and what is lost is said to be so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stage.engine.workers.link import WorkerDoor, WorkerLink
from stage.inbound.local import open_socket
from stage.ports.engine import Busy, PayloadDiffers, SagaLost, Stopping, WorkerLost
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from tests.waits import HANG_SECONDS

ERRORS = (
    PayloadDiffers("other data", Outcome.IN_PROGRESS),
    Busy("full", 2.0),
    SagaLost("not here", certain=True),
    Stopping(),
    WireError(422, "No", "never", hint="other", retryable=True),
)


class Worker:
    """Answers by name."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do what the name says."""
        if name == "hold":
            self.begun.set()
            try:
                await self.held.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if name == "no pickle":
            return asyncio.get_running_loop()
        if name == "raise":
            raise ERRORS[args[0]]
        return args, kwargs


@asynccontextmanager
async def linked(folder: Path) -> AsyncIterator[tuple[Worker, WorkerDoor, WorkerLink]]:
    worker, path = Worker(), folder / "1.sock"
    door, link = WorkerDoor(worker), WorkerLink(1, path)
    await door.open(path, open_socket)
    try:
        yield worker, door, link
    finally:
        link.close()
        await door.close()


async def test_values_come_through_many_at_a_time(tmp_path: Path) -> None:
    """Large ones in many pieces, and each to its own call."""
    async with linked(tmp_path) as (_, _, link):
        asked = [
            link.call("echo", (number, b"x" * number * 10_000), {"k": number})
            for number in range(30)
        ]
        for number, (args, kwargs) in enumerate(await asyncio.gather(*asked)):
            assert ((number, b"x" * number * 10_000), {"k": number}) == (args, kwargs)
    assert 0o600 == (tmp_path / "1.sock").stat().st_mode & 0o777


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_comes_through_whole(tmp_path: Path, error: Exception) -> None:
    """With what it is made of, beside what it says."""
    async with linked(tmp_path) as (_, _, link):
        with pytest.raises(type(error)) as raised:
            await link.call("raise", (ERRORS.index(error),), {})
    assert (str(error), error.__dict__) == (str(raised.value), raised.value.__dict__)


async def test_a_value_that_cannot_be_sent_is_an_error_at_once(tmp_path: Path) -> None:
    """And not an answer that is awaited until it is too late."""
    async with linked(tmp_path) as (_, _, link), asyncio.timeout(HANG_SECONDS):
        with pytest.raises((TypeError, RuntimeError)):
            await link.call("no pickle", (), {})


async def test_a_call_that_nobody_awaits_is_ended_there(tmp_path: Path) -> None:
    """As if the request had come in there."""
    async with linked(tmp_path) as (worker, _, link):
        asking = asyncio.create_task(link.call("hold", (), {}))
        await worker.begun.wait()
        asking.cancel()
        async with asyncio.timeout(HANG_SECONDS):
            await worker.cancelled.wait()
        assert ((), {}) == await link.call("echo", (), {})


async def test_a_worker_that_ends_leaves_its_calls_unknown(tmp_path: Path) -> None:
    """One that is not there, and one that answers too late; it is connected again afterwards."""
    async with linked(tmp_path) as (worker, door, link):
        asking = asyncio.create_task(link.call("hold", (), {}))
        await worker.begun.wait()
        await door.close()
        with pytest.raises(WorkerLost, match="ended while it was asked"):
            await asking
        with pytest.raises(WorkerLost, match="starting, or has ended"):
            await link.call("echo", (), {})
        await door.open(tmp_path / "1.sock", open_socket)
        assert ((1,), {}) == await link.call("echo", (1,), {})
        with pytest.raises(WorkerLost, match="did not answer"):
            await link.call("hold", (), {}, 0.05)
