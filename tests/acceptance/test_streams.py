"""`stage serve` whose stdout and stderr nobody takes: it starts, serves and stops as ever.

The disk of the log is full, the process that read the lines is gone or hangs, or the parent closed
both.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import msgspec
import pytest

from stage.demo.chain import free_ports
from tests.forked import ROOT, inherited
from tests.processes import children

LIMIT_SECONDS = 60.0
DECLARED = """
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

stage = Stage("payment", accepts=Order)

@stage.transaction(compensation=None, reason="it reads")
async def look(tx, saga) -> None: ...
"""
CLOSED = ("sh", "-c", 'exec "$@" >&- 2>&-', "sh")
FULL = "/dev/full"
FILLER = b"-" * 4096
SAGAS = 300
CALLERS = 16
ANNOUNCED = (b"listening on ", b"admin on ")

pytestmark = pytest.mark.execs  # a fork would have streams of its own


@contextmanager
def nowhere(how: str) -> Iterator[int | None]:
    """A descriptor that takes no line; None where the process has none."""
    if how == "closed":
        yield None
        return
    if how == "full":
        taken = os.open(FULL, os.O_WRONLY)
    elif how == "hangs":
        with full_pipe() as (_, taken):
            yield taken
        return
    else:
        reader, taken = os.pipe()
        os.close(reader)
    try:
        yield taken
    finally:
        os.close(taken)


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that takes no byte more, and its reader, who reads nothing yet."""
    reader, taken = os.pipe()
    os.set_blocking(taken, False)
    with suppress(BlockingIOError):
        while True:
            os.write(taken, FILLER)
    os.set_blocking(taken, True)
    try:
        yield reader, taken
    finally:
        for each in (reader, taken):
            with suppress(OSError):
                os.close(each)


@contextmanager
def serving(
    folder: Path, how: str | int, *more: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, and its address. `how` may be the descriptor of its streams."""
    (folder / "pay.py").write_text(DECLARED)
    (port,) = free_ports(1)
    command = (
        *(sys.executable, "-m", "stage", "serve", "pay:stage", "--auth", "none"),
        *("--port", str(port), "--database", "sqlite:///p.db", *more),
    )
    with (
        nullcontext(how) if isinstance(how, int) else nowhere(how) as taken,
        subprocess.Popen(
            (*CLOSED, *command) if taken is None else command,
            cwd=folder,
            env={**inherited(), "PYTHONPATH": str(ROOT)},
            stdout=taken,
            stderr=taken,
        ) as process,
    ):
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not ready(url):
        assert process.poll() is None, f"it ended with status {process.returncode}"
        assert time.monotonic() < until
        time.sleep(0.05)


def ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def get(url: str, body: bytes | None = None) -> bytes:
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, body, headers), timeout=LIMIT_SECONDS) as answer:
        return bytes(answer.read())


def run_sagas(url: str, first: int, last: int) -> None:
    """Each of them has to complete; one that is shed, as on a busy machine, is sent again."""

    def run(number: int) -> bool:
        saga = msgspec.json.encode({"saga_id": f"s-{number}", "data": {"amount": number}})
        until = time.monotonic() + LIMIT_SECONDS
        while True:
            try:
                return b'"executed"' in get(f"{url}/sagas", saga)
            except HTTPError as refused:
                if refused.code != 503 or time.monotonic() > until:
                    raise
                time.sleep(float(refused.headers["Retry-After"]))

    with ThreadPoolExecutor(CALLERS) as callers:
        assert all(callers.map(run, range(first, last)))


def dropped(url: str) -> int:
    """The lines that this process, or all workers, have dropped."""
    found = re.findall(rb"^stage_log_lines_dropped_total\S* (\S+)$", get(f"{url}/metrics"), re.M)
    return sum(int(float(each)) for each in found)


@pytest.mark.parametrize("how", ["full", "closed", "gone", "hangs"])
def test_a_stage_serves_although_nobody_takes_its_lines(tmp_path: Path, how: str) -> None:
    """A full disk of the log must not be an outage of the stage, and hide why."""
    with serving(tmp_path, how) as (process, url):
        wait_until_ready(process, url)
        process.terminate()
        assert 0 == process.wait(LIMIT_SECONDS)


@pytest.mark.parametrize("workers", [1, 2])
def test_sagas_go_on_while_nobody_reads_the_log(tmp_path: Path, workers: int) -> None:
    """From the first line on. A reader that comes back gets whole lines, and how many are missing.

    It is the number of the metric.
    """
    more = ("--workers", str(workers)) if workers > 1 else ()
    found: list[bytes] = []
    with (
        full_pipe() as (reader, taken),
        serving(tmp_path, taken, "--log-level", "debug", *more) as (process, url),
    ):
        wait_until_ready(process, url)
        sagas = 0
        while not dropped(url):
            run_sagas(url, sagas, sagas + SAGAS)
            sagas += SAGAS
        os.close(taken)
        reading = Thread(target=lambda: found.extend(read_all(reader)))
        reading.start()
        until = time.monotonic() + LIMIT_SECONDS
        while dropped(url) != missing(b"".join(found)):
            assert time.monotonic() < until
            time.sleep(0.05)
        run_sagas(url, sagas, sagas + 1)
        known = dropped(url)
        process.terminate()
        assert 0 == process.wait(LIMIT_SECONDS)
        reading.join(LIMIT_SECONDS)
        assert not reading.is_alive()
    text = b"".join(found)
    accepted = [each["saga_id"] for each in logged(text) if each["event"] == "accepted"]
    assert known == missing(text) > 0
    assert {"s-0", f"s-{sagas}"} <= set(accepted) and len(set(accepted)) == len(accepted)
    assert workers <= sum(each["event"] == "stopped" for each in logged(text))
    assert b"listening on http" in text  # which was to be said before all that


def logged(text: bytes) -> list[dict[str, Any]]:
    """Every whole line of the log, behind what filled the pipe."""
    lines = text.lstrip(FILLER[:1]).splitlines(keepends=True)
    return [
        msgspec.json.decode(line)
        for line in lines
        if line.endswith(b"\n") and not line.startswith(ANNOUNCED)
    ]


def missing(text: bytes) -> int:
    """So many lines, as the log itself says."""
    lines = (each for each in logged(text) if each["event"] == "log_lines_dropped")
    return sum(each["lines"] for each in lines)


def read_all(reader: int) -> Iterator[bytes]:
    """Until nobody writes any more."""
    while read := os.read(reader, 65_536):
        yield read


def test_the_end_of_a_process_waits_a_second_for_its_reader(tmp_path: Path) -> None:
    """A process whose lines nobody takes ends all the same, with its status."""
    with full_pipe() as (_, taken), serving(tmp_path, taken) as (process, url):
        wait_until_ready(process, url)
        process.terminate()
        assert 0 == process.wait(LIMIT_SECONDS)


def test_a_start_that_is_refused_ends_although_nobody_reads_why(tmp_path: Path) -> None:
    """Its sentence is one more line that is not taken."""
    (tmp_path / "p.db").write_bytes(b"")
    with full_pipe() as (_, taken), serving(tmp_path, taken) as (process, _):
        assert 2 == process.wait(LIMIT_SECONDS)


def test_a_killed_worker_is_started_anew_although_nobody_takes_its_lines(tmp_path: Path) -> None:
    """The line `worker_ended` is lost, and the parent is not."""
    with serving(tmp_path, "full", "--workers", "2") as (process, url):
        wait_until_ready(process, url)
        first, second = children(process.pid)
        os.kill(first, signal.SIGKILL)
        until = time.monotonic() + LIMIT_SECONDS
        while len(now := set(children(process.pid)) - {first}) < 2:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        assert second in now
        wait_until_ready(process, url)
        process.terminate()
        assert 0 == process.wait(LIMIT_SECONDS)
