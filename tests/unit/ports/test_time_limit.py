"""The time limit that an answer beats: of the outside only what had arrived counts."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from stage.ports.time_limit import LATE_SECONDS, TimeLimit
from stage.simulation.loop import VirtualLoop
from tests.waits import HANG_SECONDS

SECONDS = 0.1
FROZEN_SECONDS = SECONDS + 3 * LATE_SECONDS
Limited = Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]


async def _limited(work: Awaitable[Any]) -> Any:
    with TimeLimit(SECONDS):
        return await work


async def _limited_by_asyncio(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(SECONDS):
        return await work


def test_a_peer_that_says_nothing_is_given_up_in_time() -> None:
    """As by asyncio.timeout, and not later."""
    loop = VirtualLoop()
    began = loop.time()
    try:
        with pytest.raises(TimeoutError):
            loop.run_until_complete(_limited(asyncio.sleep(60)))
    finally:
        loop.close()
    assert SECONDS == pytest.approx(loop.time() - began)


async def test_an_answer_in_the_round_of_the_timer_is_taken() -> None:
    """Both become ready at once: what was read goes to the one who waits for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[str] = loop.create_future()
    loop.call_later(SECONDS, answer.set_result, "yes")
    with TimeLimit(SECONDS):
        assert "yes" == await answer


@pytest.mark.blocking
@pytest.mark.parametrize("limited", [_limited, _limited_by_asyncio])
async def test_an_answer_that_came_while_the_process_was_frozen_is_taken(limited: Limited) -> None:
    """The timer is over and the answer is there at once: asyncio.timeout loses it."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)

    asking = asyncio.ensure_future(limited(reader.readexactly(50_000)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    theirs.sendall(b"x" * 50_000)
    time.sleep(FROZEN_SECONDS)  # noqa: ASYNC251 - as if the process had been stopped
    try:
        if limited is _limited:
            assert 50_000 == len(await asking)
        else:
            with pytest.raises(TimeoutError):
                await asking
    finally:
        writer.close()
        theirs.close()


@pytest.mark.blocking
async def test_a_frozen_process_does_not_wait_for_ever() -> None:
    """Nothing had arrived: the limit is over soon after."""
    asking = asyncio.ensure_future(_limited(asyncio.sleep(60)))
    await asyncio.sleep(0)
    time.sleep(FROZEN_SECONDS)  # noqa: ASYNC251 - as if the process had been stopped
    async with asyncio.timeout(HANG_SECONDS):
        with pytest.raises(TimeoutError):
            await asking
