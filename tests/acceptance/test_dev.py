"""`stage dev` in a fresh folder: a new project, the printed curl, and a change that is taken up."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from stage.cli.project import write_project

ROOT = Path(__file__).resolve().parents[2]
SECONDS_MAX = 100.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A new project; `test_new` runs its tests."""
    write_project(tmp_path, "booking")
    return tmp_path


async def started(project: Path, port: int, target: str = "booking.stage:booking") -> Process:
    """`stage dev` of it, as a shell script starts it in the background: with SIGINT ignored."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("STAGE_")}
    return await asyncio.create_subprocess_exec(
        *("sh", "-c", 'trap "" INT; exec "$@"', "sh"),
        *(sys.executable, "-m", "stage", "dev", target, "--port", str(port)),
        cwd=project,
        stdout=PIPE,
        stderr=STDOUT,
        env={**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
async def running(project: Path) -> AsyncIterator[Process]:
    """It under `stage dev`."""
    process = await started(project, 0)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()  # it ends the stage, too
        async with asyncio.timeout(SECONDS_MAX):
            await process.communicate()


async def lines_until(process: Process, word: str) -> list[str]:
    """The lines that it prints, up to one with that word."""
    assert process.stdout is not None
    lines: list[str] = []
    async with asyncio.timeout(SECONDS_MAX):
        while not lines or word not in lines[-1]:
            line = await process.stdout.readline()
            assert line, lines
            lines.append(line.decode())
    return lines


async def posted(curl: str, saga_id: str) -> tuple[int, str]:
    """Do as the printed line does, under another saga id: the code, and the outcome."""
    words = shlex.split(curl)
    assert ["curl", "-s"] == words[:2]
    body = {**msgspec.json.decode(words[words.index("-d") + 1]), "saga_id": saga_id}
    name, _, value = words[words.index("-H") + 1].partition(": ")
    async with (
        aiohttp.ClientSession() as session,
        session.post(words[2], json=body, headers={name: value}) as answer,
    ):
        return answer.status, (await answer.json())["outcome"]


@pytest.mark.timeout(240)
async def test_a_new_project_is_tried_by_the_printed_curl(running: Process, project: Path) -> None:
    """The saga is executed; after a change of the code the next one is refused by that."""
    printed = await lines_until(running, "listening on")
    (curl,) = [line.strip() for line in printed if "/sagas -H" in line]

    assert (200, "executed") == await posted(curl, "dev-1")

    stage = project / "booking" / "stage.py"
    before = stage.read_text(encoding="utf-8")
    # Of another length: compiled code is known by the second and the length of its source.
    slip = before.replace("amount <= 0", "amount >= 0.0").replace(" WHERE saga_id = $1", "")
    stage.write_text(slip, encoding="utf-8")
    again = await lines_until(running, "listening on")
    if not any("`stage check` finds" in line for line in again):  # they begin side by side
        again += await lines_until(running, "`stage check` finds")
    assert any("stage.py has changed" in line for line in again)
    assert (409, "not_executed") == await posted(curl, "dev-2")

    running.send_signal(signal.SIGINT)
    async with asyncio.timeout(SECONDS_MAX):
        await running.communicate()
    assert 130 == running.returncode


@pytest.mark.timeout(240)
async def test_a_port_in_use_ends_it_with_the_reason(project: Path) -> None:
    """It does not stay up around a stage that could not be started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await started(project, port)
        async with asyncio.timeout(SECONDS_MAX):
            said, _ = await process.communicate()
    assert 2 == process.returncode
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use: choose another --port," in (
        said.decode()
    )


@pytest.mark.timeout(240)
async def test_a_pending_call_is_ended_by_the_printed_curl(tmp_path: Path) -> None:
    """The stage believes the webhook: its secret is that of the fake, made for this run."""
    process = await started(tmp_path, 0, "stage.demo.payment:payment")
    try:
        printed = await lines_until(process, "listening on")
        (begin,) = [line.strip() for line in printed if "/sagas -H" in line]
        (land,) = [line.split()[-1] for line in printed if "/land/" in line]
        assert any("signed with the secret" in line for line in printed)
        assert (202, "in_progress") == await posted(begin, "dev-1")
        async with aiohttp.ClientSession() as session, session.post(land) as answer:
            assert 200 == (await answer.json())["webhook"]
        assert (200, "executed") == await posted(begin, "dev-1")
    finally:
        process.terminate()
        async with asyncio.timeout(SECONDS_MAX):
            await process.communicate()
