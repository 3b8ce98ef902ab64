"""F6: the stage killed as it enters its n-th fdatasync, pwrite64 or send.

At most POINTS of each, spread over all there are; `POINTS=1000` is all of them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.acceptance.kills.bench import STRACE, Bench, CannotTrace
from tests.acceptance.kills.exact import NEVER, Exact
from tests.kits import Strikes
from tests.sizes import CALLS_MIN, SIZES

POINTS = SIZES.points
TRIES_MAX = 5
"""How often a kill is tried, each time at an earlier call, in a run that makes fewer calls."""
SEND = "sendto" if find_spec("uvloop") is None else "write"
"""How the loop that the stage finds sends: uvloop writes to its sockets."""
SYSCALLS = {SEND if name == "send" else name: calls for name, calls in CALLS_MIN.items()}
"""With the number that the scenario makes at least: with fewer, it is no longer the scenario."""


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.kit("F6")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("syscall", SYSCALLS)
async def test_killed_at_any_call_the_books_agree(
    syscall: str, tmp_path: Path, strikes: Strikes
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
        assert SYSCALLS[syscall] <= calls
        points = sorted({1 + place * calls // POINTS for place in range(POINTS)})
        for point in points:
            number, killed = point, False
            for _ in range(TRIES_MAX):
                kill = await exact.kill_at(syscall, number)
                wrong += [f"{syscall} {number}: {what}" for what in kill.wrong]
                if killed := kill.killed:
                    assert kill.calls >= number
                    break
                # One wake-up of the loop serves as many threads as happened to call: a run makes a
                # few calls less than the one that was counted, but never misses one that it made.
                assert kill.calls < number
                number = max(1, kill.calls - 1)
            struck += killed
    note = f"killed at {struck} of {calls} calls of {syscall}"
    strikes.report("kills", struck, violations=len(wrong), note=note)
    assert [] == wrong
    assert len(points) == struck
