"""Real processes at the price of a fork: everything is imported once, each stage is a child.

    python -m tests.acceptance.kills.zygote

Told on standard input, a line of JSON each: `{"stage": "payment", "config": {...}, "held": true}`
forks a child that serves the stage; `{"exit": true}` ends. Told on standard output: `forked PID`,
and what the child itself says (`listening on ...`). A child that is `held` stops itself first, so
that a tracer can take hold of it; SIGCONT lets it go on. Children are reaped by the kernel.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from stage.bootstrap import serve
from stage.config import Config
from tests.acceptance.kills import stages


def main() -> None:
    """Fork a child for every line, until told to exit or standard input ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        if told.get("exit"):
            return
        if os.fork() == 0:
            child(told)
            os._exit(0)


def child(told: dict[str, Any]) -> None:
    """Serve one stage with the given configuration; the log goes to its own file."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    print(f"forked {os.getpid()}", flush=True)
    log = os.open(Path(told["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, sys.stderr.fileno())
    if told.get("held"):
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        serve(getattr(stages, told["stage"]), Config(**told["config"]))
    except BaseException as error:
        print(f"failed {error!r}", flush=True)
        os._exit(1)


if __name__ == "__main__":
    main()
