"""`stage demo` as a user runs it: real processes, one of them killed with SIGKILL."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE

import msgspec
import pytest

NAMES = [
    "completed",
    "refused",
    "in-doubt",
    "late-failure",
    "overtaken",
    "five-times",
    "killed",
    "gateway",
]


async def demo(*arguments: str) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stage", "demo", *arguments, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(100):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, out, err


@pytest.mark.timeout(110)
async def test_the_eight_stories_end_as_expected_and_the_books_balance() -> None:
    """Exit status 0, eight stories, no effect that is not accounted for."""
    status, out, err = await demo("--json")
    assert 0 == status, (out, err)
    report = msgspec.json.decode(out)
    assert NAMES == [story["name"] for story in report["stories"]]
    assert all(story["ok"] for story in report["stories"])
    assert (0, True) == (report["unaccounted_effects"], report["ok"])
    for story in report["stories"]:
        assert {"name", "saga_id", "trace_id", "outcome", "states", "charges", "ok"} == set(story)
        assert {"order", "payment", "shipping"} == set(story["states"])
        assert 32 == len(story["trace_id"]), story["name"]
    charges = {story["name"]: story["charges"] for story in report["stories"]}
    assert {"made": 1, "standing": 1} == charges["killed"]
    assert {"made": 1, "standing": 0} == charges["late-failure"]
