"""Author code that blocks, exits or kills, in a real process watched from outside (rule 35).

One stage does all of it: the data of a saga says at which place its code misbehaves, and how.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

HOST = "127.0.0.1"
STUCK_SECONDS = 0.5
DRAIN_SECONDS = 1.0
EXIT_SECONDS_MAX = DRAIN_SECONDS + 4.0 + 2.0
"""What the operator set, what the process may take to end, and some for a busy machine."""
DIED = 9

SOURCE = """
import os
import sys
import time

import msgspec
from stage import Stage


class Order(msgspec.Struct):
    place: str = ""
    what: str = ""


stage = Stage("payment", accepts=Order)


def misbehave(saga, place):
    if saga.input.place != place:
        return
    if saga.input.what == "loop":
        while True:
            pass
    if saga.input.what == "kill":
        os._exit(9)
    if saga.input.what == "exit":
        sys.exit(3)


@stage.transaction
async def reserve(tx, saga):
    misbehave(saga, "reserve")


@stage.call(to="psp", timeout=3.0)
async def charge(http, saga):
    misbehave(saga, "before")
    answer = await http.post("/charges", json={})
    misbehave(saga, "behind")
    return answer.json()


@charge.compensation
async def refund(http, saga, charge):
    await http.post("/refunds", json={})
"""


class Bench:
    """The stage in a process of its own, its API, and a client."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.psp = ""
        self.port = unused_port()
        self.session: aiohttp.ClientSession
        self.process: Process
        self.answer_seconds = 0.0
        self.standing: set[str] = set()
        """The keys of the charges that stand, by the API's own books."""

    async def start(self) -> None:
        """Start the process; return when it listens or is gone."""
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "stage", "serve", "author:stage", "--port", str(self.port),
                "--database", f"sqlite:///{self.folder / 'stage.db'}", "--external",
                f"psp={self.psp}", "--stuck-seconds", str(STUCK_SECONDS),
                "--drain-seconds", str(DRAIN_SECONDS), "--wait-seconds-max", "2",
                stdout=PIPE, stderr=log, cwd=self.folder,
                env={**os.environ, "STAGE_LOG_FORMAT": "json"},
            )  # fmt: skip
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            await self.process.stdout.readline()

    async def post(self, saga_id: str, **data: str) -> int:
        """Send a saga; the code, or 0 where the process died or did not answer."""
        envelope = {"saga_id": saga_id, "data": data}
        try:
            async with self.session.post(f"{self.url}/sagas", json=envelope) as response:
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def get(self, path: str) -> tuple[int, Any]:
        """The code and the body of a GET; 0 where nobody answered."""
        try:
            async with self.session.get(f"{self.url}{path}") as response:
                body = await response.read()
                with suppress(msgspec.DecodeError):
                    return response.status, msgspec.json.decode(body)
                return response.status, body.decode()
        except (aiohttp.ClientError, TimeoutError):
            return 0, None

    async def view_when_parked(self, saga_id: str) -> Any:
        """The view of a saga that is parked soon."""
        async with asyncio.timeout(10):
            while True:
                status, view = await self.get(f"/sagas/{saga_id}")
                if status == 200 and view["parked"]:
                    return view
                await asyncio.sleep(0.05)

    def logged(self, event: str) -> list[Any]:
        """The lines of that name."""
        lines = (self.folder / "log").read_bytes().splitlines()
        decoded = [msgspec.json.decode(line) for line in lines if line.startswith(b"{")]
        return [line for line in decoded if line["event"] == event]

    async def until_logged(self, event: str) -> Any:
        """The first line of that name, which comes soon."""
        async with asyncio.timeout(10):
            while not (found := self.logged(event)):  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.05)
        return found[0]

    async def died(self) -> None:
        """Return when the process has ended where the author's code ends it."""
        async with asyncio.timeout(10):
            assert DIED == await self.process.wait()

    @property
    def url(self) -> str:
        """The base URL of the stage."""
        return f"http://{HOST}:{self.port}"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    (tmp_path / "author.py").write_text(SOURCE)
    app = web.Application()
    bench = Bench(tmp_path)

    async def take(request: web.Request) -> web.Response:
        await asyncio.sleep(bench.answer_seconds)
        charge, direction = request.headers["Idempotency-Key"].rsplit(":", 1)
        (bench.standing.add if direction == "do" else bench.standing.discard)(charge)
        return web.json_response({"id": "c-1"})

    app.router.add_post("/{tail:.*}", take)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    bench.psp = f"http://{HOST}:{server.port}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=4.0)) as bench.session:
        await bench.start()
        try:
            yield bench
        finally:
            if bench.process.returncode is None:
                bench.process.kill()
            await bench.process.wait()
            await server.close()


async def test_a_transaction_that_never_ends_is_reported_and_does_not_hold_the_exit(
    bench: Bench,
) -> None:
    """Not ready, the saga and the step named with the stack, counted; SIGTERM ends the process."""
    assert 200 == await bench.post("s-0")
    assert 200 == (await bench.get("/readyz"))[0]
    stuck = asyncio.create_task(bench.post("s-1", place="reserve", what="loop"))
    line = await bench.until_logged("code_stuck")
    assert ("s-1", "reserve", "writer") == (line["saga_id"], line["step"], line["thread"])
    assert "author.py" in line["stack"][-1] and "misbehave" in line["stack"][-1]
    assert 503 == (await bench.get("/readyz"))[0]
    _, metrics = await bench.get("/metrics")
    assert 'stage_code_stuck_total{thread="writer"} 1' in metrics
    await ended_by_force(bench)
    await stuck
    await bench.start()
    assert 200 == await bench.post("s-2")
    assert 200 == (await bench.get("/sagas/s-0"))[0]


async def test_a_call_that_blocks_the_event_loop_is_reported_and_does_not_hold_the_exit(
    bench: Bench,
) -> None:
    """Nobody is answered meanwhile, so only the watchdog's own thread can say it."""
    stuck = asyncio.create_task(bench.post("s-1", place="behind", what="loop"))
    line = await bench.until_logged("code_stuck")
    assert ("s-1", "charge", "loop") == (line["saga_id"], line["step"], line["thread"])
    assert "misbehave" in line["stack"][-1]
    assert 0 == (await bench.get("/readyz"))[0]
    await ended_by_force(bench)
    await stuck


async def ended_by_force(bench: Bench) -> None:
    """SIGTERM ends the process in time, and its last line says which thread was left."""
    asked = time.monotonic()
    bench.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(EXIT_SECONDS_MAX):
        assert 70 == await bench.process.wait()
    assert time.monotonic() - asked >= DRAIN_SECONDS
    stacks = (await bench.until_logged("exit_forced"))["stacks"]
    assert any("misbehave" in calls[-1] for calls in stacks.values()), stacks


@pytest.mark.parametrize("place", ["reserve", "before"])
async def test_code_that_kills_before_anything_is_journaled_is_parked_at_the_third_start(
    bench: Bench, place: str
) -> None:
    """Two processes die without a trace in the journal; the third knows whose code it was."""
    for _ in range(2):
        assert 0 == await bench.post("s-1", place=place, what="kill")
        await bench.died()
        await bench.start()
        assert 404 == (await bench.get("/sagas/s-1"))[0]  # nothing of it was journaled
    assert 202 == await bench.post("s-1", place=place, what="kill")
    view = await bench.view_when_parked("s-1")
    assert "2 processes died" in view["parked_reason"], view
    assert 200 == await bench.post("s-2")
    assert 0o600 == (bench.folder / "stage.db.running").stat().st_mode & 0o777
    assert bench.process.returncode is None


async def test_the_crashes_of_one_saga_do_not_spend_the_attempts_of_others(bench: Bench) -> None:
    """Each death cuts the call of an innocent saga off; it goes on as if nobody had died."""
    bench.answer_seconds = 1.0
    innocent = asyncio.create_task(bench.post("s-good"))
    for _ in range(2):
        await asyncio.sleep(0.3)  # its call is under way
        assert 0 == await bench.post("s-bad", place="reserve", what="kill")
        await bench.died()
        await bench.start()
    await innocent
    bench.answer_seconds = 0.0
    _, journal = await bench.get("/sagas/s-good?view=journal")
    recovered = [each for each in journal["entries"] if each["event"] == "recovered"]
    assert recovered and all(each.get("innocent") for each in recovered), journal
    assert 200 == await bench.post("s-good")


@pytest.mark.parametrize("place", ["reserve", "before", "behind"])
async def test_an_exit_in_author_code_ends_its_step_and_not_the_process(
    bench: Bench, place: str
) -> None:
    """`sys.exit` in a transaction, before the first request and behind its answer."""
    assert 409 == await bench.post("s-1", place=place, what="exit")
    assert 200 == await bench.post("s-2")
    assert {"s-2:payment:charge"} == bench.standing
    assert bench.process.returncode is None


async def test_a_frozen_process_takes_the_answers_that_had_arrived(bench: Bench) -> None:
    """Frozen for longer than the time-out of ten calls whose answers came meanwhile."""
    bench.answer_seconds = 0.8
    sending = [asyncio.create_task(bench.post(f"s-{number}")) for number in range(10)]
    await asyncio.sleep(0.5)
    bench.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(4.0)
    assert 10 == len(bench.standing)  # every answer was sent while nobody read
    bench.process.send_signal(signal.SIGCONT)
    await asyncio.gather(*sending)
    bench.answer_seconds = 0.0
    for number in range(10):
        assert 200 == await bench.post(f"s-{number}")
        _, journal = await bench.get(f"/sagas/s-{number}?view=journal")
        names = [each["event"] for each in journal["entries"]]
        assert "step_in_doubt" not in names, names
