"""The command line at the price of a fork: one process has imported it, each command is a child.

A start by exec costs half a second of processor time, nearly all of it imports, and the tests give
some hundred commands. A child has the streams, the environment, the working directory and the path
of a real `python -m stage`, and ends as one does. `tests/acceptance/kills/zygote.py` is apart: its
children live long, share one stream, and wait for a tracer.

Told on a socket, one message each: `{"run": [...], "cwd": ..., "environ": {...}}` together with
the descriptors of standard input, output and error. The answer is the exit status.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COMMAND_SECONDS_MAX = 100.0
MESSAGE_BYTES_MAX = 200_000
KILLED = 128
"""A signal that ended a command, as a shell says it: 128 and its number."""

_TURN = Lock()
"""One command at a time: threads of one test may ask."""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def stage(*arguments: str, cwd: Path | None = None, stdin: str = "", **environ: str) -> Done:
    """`stage ARGUMENTS` in a process of its own, without the STAGE_ variables of ours."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("STAGE_")}
    order = {
        "run": arguments,
        "cwd": str(cwd or Path.cwd()),
        "environ": {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environ},
    }
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        streams = [stream.fileno() for stream in (given, out, err)]
        with _TURN:
            mother = _mother()
            socket.send_fds(mother, [json.dumps(order).encode()], streams)
            answer = mother.recv(MESSAGE_BYTES_MAX)
        assert answer, "the process that forks commands has ended"
        for stream in (out, err):
            stream.seek(0)
        return Done(json.loads(answer), out.read().decode(), err.read().decode())


@cache
def _mother() -> socket.socket:
    """The way to the process that forks; it ends with this one."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(COMMAND_SECONDS_MAX)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-m", "tests.forked"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def main() -> int:
    """Fork a child for every message until nobody is there any more."""
    import stage.bootstrap
    import stage.cli.root  # noqa: F401 - what a command imports is what children have

    user = socket.socket(fileno=os.dup(0))
    while True:
        message, streams, _, _ = socket.recv_fds(user, MESSAGE_BYTES_MAX, 3)
        if not message:
            return 0
        child = os.fork()
        if child == 0:
            user.close()
            return _command(json.loads(message), streams)
        for stream in streams:
            os.close(stream)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        user.send(json.dumps(status if status >= 0 else KILLED - status).encode())


def _command(order: Mapping[str, Any], streams: Sequence[int]) -> int:
    """Be `python -m stage` with these arguments; the interpreter then ends as usual."""
    from stage.__main__ import main as stage_main

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    sys.argv[:] = ["stage", *order["run"]]
    sys.path[0] = order["cwd"]
    return stage_main()


if __name__ == "__main__":
    sys.exit(main())
