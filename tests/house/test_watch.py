"""The watch over the event loop strikes where it should."""

from __future__ import annotations

import asyncio
import types

import pytest
from blockbuster import BlockingError

import stage


def of_ours() -> types.FunctionType:
    """A function that sleeps the wrong way, as if it stood in a file of ours."""
    room: dict[str, object] = {}
    source = "import time\ndef nap():\n    time.sleep(0)\n"
    exec(compile(source, f"{stage.__path__[0]}/planted.py", "exec"), room)  # noqa: S102
    nap = room["nap"]
    assert isinstance(nap, types.FunctionType)
    return nap


async def test_a_blocking_call_of_ours_is_stopped() -> None:
    """time.sleep in our code, inside the loop, raises instead of blocking."""
    nap = of_ours()

    with pytest.raises(BlockingError):
        nap()


@pytest.mark.blocking
async def test_a_test_may_switch_the_watch_off() -> None:
    """The marker lets one test block on purpose."""
    of_ours()()


async def test_a_thread_may_block() -> None:
    """Blocking work belongs in a thread, and there it is left alone."""
    await asyncio.to_thread(of_ours())
