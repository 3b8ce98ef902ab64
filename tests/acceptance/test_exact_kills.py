"""F6: the stage killed as it enters its n-th fdatasync, pwrite64 or send, for every n."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.acceptance.kills.bench import STRACE, Bench, CannotTrace
from tests.acceptance.kills.exact import Exact

SEND = "sendto" if find_spec("uvloop") is None else "write"
"""How the loop that the stage finds sends: uvloop writes to its sockets."""
POINTS_MIN = {"fdatasync": 20, "pwrite64": 100, SEND: 20}
"""The scenario makes at least so many calls: fewer kills would mean that they did not strike."""


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("syscall", POINTS_MIN)
async def test_killed_at_any_call_the_books_agree(
    syscall: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Whichever write, sync or send is the last one, three sagas end as if nothing had been."""
    wrong: list[str] = []
    number = 0
    async with Bench(tmp_path).prepared() as bench:
        while True:
            try:
                struck = await Exact(bench).kill_at(syscall, number + 1)
            except CannotTrace as error:
                pytest.skip(f"strace may not trace here: {error}")
            wrong += [f"{syscall} {number + 1}: {what}" for what in struck.wrong]
            if not struck.killed:
                break
            number += 1
            assert number <= struck.calls, "killed by something else"
    record_property("reached", f"F6: killed at each of {number} calls of {syscall}")
    assert [] == wrong
    assert POINTS_MIN[syscall] <= number
