"""Each service as a process: it says where it listens, works, and stops on SIGTERM."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.waits import HANG_SECONDS

ROOT = Path(__file__).parents[3]

SERVICES = [
    pytest.param(["upstream_stub", "--stage", "http://127.0.0.1:1"], "/sagas", id="upstream"),
    pytest.param(
        ["downstream_stub", "--upstream", "http://127.0.0.1:1"], "/sagas", id="downstream"
    ),
    pytest.param(["stage.demo.psp"], "/charges", id="psp"),
]


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A module as a process, ended at the latest when the test is."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.execs
@pytest.mark.parametrize("words, path", SERVICES)
def test_a_service_starts_and_stops(words: list[str], path: str) -> None:
    """On a free port, with one line when it is ready; SIGTERM ends it quickly, with status 0."""
    with running(*words, "--port", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:")
        with urlopen(line.split()[-1] + path, timeout=HANG_SECONDS) as answer:
            assert 200 == answer.status

        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(timeout=HANG_SECONDS)
        assert ("", "") == (process.stdout.read(), process.stderr.read())


@pytest.mark.parametrize("words, path", SERVICES)
def test_a_port_that_is_taken(words: list[str], path: str) -> None:
    """One line that says so, status 2, no traceback."""
    with running(*words, "--port", "0") as first:
        assert first.stdout is not None
        port = first.stdout.readline().strip().rpartition(":")[2]
        with running(*words, "--port", port) as second:
            _, output = second.communicate(timeout=HANG_SECONDS)

    assert 2 == second.returncode
    assert 1 == len(output.splitlines())
    assert f"cannot listen on 127.0.0.1:{port}" in output


@pytest.mark.parametrize(
    "words",
    [
        ["upstream_stub", "--stage", "http://x", "--name", "Not A Name"],
        ["upstream_stub", "--stage", "http://x", "--budget", "nan"],
        ["downstream_stub", "--upstream", "http://x", "--script", "explode"],
        ["downstream_stub"],
        ["downstream_stub", "--upstream", "https://x", "--ca-file", "missing.pem"],
        ["stage.demo.psp", "--tls-cert", "missing.pem"],
    ],
)
def test_wrong_options(words: list[str]) -> None:
    """Status 2 and a message, before anything listens."""
    with running(*words) as process:
        out, output = process.communicate(timeout=HANG_SECONDS)

    assert 2 == process.returncode
    assert "" == out
    assert "error:" in output or "cannot be used: missing.pem" in output
    assert "Traceback" not in output


def test_a_hanging_request_does_not_hold_the_stop() -> None:
    """SIGTERM ends a provider that is just saying nothing to somebody."""
    with running("stage.demo.psp", "--port", "0") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().strip().rpartition(":")[2])
        _put_script(port, b'{"script":"hang"}')
        with socket.create_connection(("127.0.0.1", port), timeout=HANG_SECONDS) as client:
            client.sendall(
                b"POST /charges HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k\r\n"
                b'Content-Length: 12\r\n\r\n{"amount":1}'
            )
            _until_seen(port)

            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(timeout=HANG_SECONDS)  # aiohttp itself would wait for longer


def _put_script(port: int, script: bytes) -> None:
    request = Request(f"http://127.0.0.1:{port}/script", data=script, method="PUT")
    with urlopen(request, timeout=HANG_SECONDS) as answer:
        assert 200 == answer.status


def _until_seen(port: int) -> None:
    """Ask the books until the request stands in them."""
    ends_at = time.monotonic() + HANG_SECONDS
    output = b""
    while b'"requests": 1' not in output:
        assert time.monotonic() < ends_at
        with urlopen(f"http://127.0.0.1:{port}/charges", timeout=HANG_SECONDS) as answer:
            output = answer.read()
