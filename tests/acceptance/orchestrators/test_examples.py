"""The examples of the page run, and print what the page promises."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.temporal.processes import NoServer, program
from stage.orchestrators.step_functions import document

ROOT = Path(__file__).parents[3]
SECONDS_MAX = 100.0


async def printed(example: str) -> list[list[str]]:
    """The first two words of each line that an example prints."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", example),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS_MAX):
            written, _ = await run.communicate()
    finally:
        if run.returncode is None:
            run.send_signal(signal.SIGINT)  # it ends what it has started
            await run.communicate()
    assert 0 == run.returncode
    return [line.split()[:2] for line in written.decode().splitlines()]


async def test_the_example_of_temporal_runs() -> None:
    """Completed, refused by the last stage, and undone after its end."""
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    assert [
        ["completed", "executed"],
        ["refused", "compensated"],
        ["late", "executed"],
        ["late", "compensated"],
    ] == await printed("examples.temporal")


async def test_the_example_of_step_functions_runs() -> None:
    """The same, by the documents that its template deploys."""
    assert [
        ["completed", "executed"],
        ["refused", document.COMPENSATED],
        ["late", "executed"],
        ["late", document.COMPENSATED],
    ] == await printed("examples.step_functions")


@pytest.mark.parametrize("make", [document.forward, document.backward])
def test_the_documents_of_the_example_are_those_that_the_command_writes(
    make: Callable[[document.Chain], document.State],
) -> None:
    """With nothing but the names of the stages."""
    file = ROOT / "examples" / "step_functions" / f"{make.__name__}.asl.json"

    assert make(document.Chain(stages=("payment", "shipping"))) == json.loads(file.read_text())
