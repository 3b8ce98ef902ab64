"""F6: the stage killed as it enters its n-th fdatasync, pwrite64 or send.

At most POINTS (100) of each, spread over all there are; `POINTS=1000` is all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.acceptance.kills.bench import STRACE, Bench, CannotTrace
from tests.acceptance.kills.exact import NEVER, Exact

POINTS = int(os.environ.get("POINTS", "100"))
SEND = "sendto" if find_spec("uvloop") is None else "write"
"""How the loop that the stage finds sends: uvloop writes to its sockets."""
CALLS_MIN = {"fdatasync": 20, "pwrite64": 100, SEND: 20}
"""The scenario makes at least so many: else the kills would not strike what they are meant to."""


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("syscall", CALLS_MIN)
async def test_killed_at_any_call_the_books_agree(
    syscall: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Whichever write, sync or send is the last one, three sagas end as if nothing had been."""
    wrong: list[str] = []
    struck = 0
    async with Bench(tmp_path).prepared() as bench:
        exact = Exact(bench)
        try:
            calls = (await exact.kill_at(syscall, NEVER)).calls
        except CannotTrace as error:
            pytest.skip(f"strace may not trace here: {error}")
        assert CALLS_MIN[syscall] <= calls
        points = sorted({1 + place * calls // POINTS for place in range(POINTS)})
        for number in points:
            kill = await exact.kill_at(syscall, number)
            wrong += [f"{syscall} {number}: {what}" for what in kill.wrong]
            struck += kill.killed
            # One wake-up of the loop serves as many threads as happened to call: a run makes a few
            # calls less than the one that was counted, but never misses one that it made.
            assert kill.calls >= number if kill.killed else kill.calls < number
    record_property("reached", f"F6: killed at {struck} of {calls} calls of {syscall}")
    assert [] == wrong
    assert 0.75 * len(points) <= struck
