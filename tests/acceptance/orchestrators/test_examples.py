"""The example of the page runs, and prints what the page promises."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from examples.temporal.processes import NoServer, program

ROOT = Path(__file__).parents[3]


async def test_the_example_of_temporal_runs() -> None:
    """Completed, refused by the last stage, and undone after its end."""
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.temporal"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    written, _ = await run.communicate()

    ends = [line.split()[:2] for line in written.decode().splitlines()]
    assert [
        ["completed", "executed"],
        ["refused", "compensated"],
        ["late", "executed"],
        ["late", "compensated"],
    ] == ends
