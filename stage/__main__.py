"""`stage` and `python -m stage`: the way into the command line."""

from __future__ import annotations

import os
import signal
import sys

FIRST_PROCESS = 1
SERVE = "serve"


def main() -> int:
    """Run the command line and return its exit status."""
    end_by_sigterm()
    search_here_last()
    from stage.cli.root import run

    return run()


def end_by_sigterm() -> None:
    """Let SIGTERM end the first process of a container, from before the first slow import on.

    Any other process ends by the default action, at once. The kernel keeps that from the first one,
    which would go on as if nothing had been said, until the platform kills it. A command that ends
    in order replaces this when it begins to.
    """
    if os.getpid() == FIRST_PROCESS and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end)


def _end(number: int, _frame: object) -> None:
    """End at once: a stage has not begun to serve, and every step of a command survives a kill.

    The exit status of a stage is that of its stop at any other time, and otherwise what a shell
    says of the signal.
    """
    os._exit(0 if sys.argv[1:2] == [SERVE] else 128 + number)


def search_here_last() -> None:
    """Take the working directory from the head of the path, where `python -m stage` puts it.

    A `secrets.py` that somebody left there would run in place of the standard library's. A folder
    that PYTHONPATH names keeps its place.
    """
    here = os.getcwd()
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        sys.path[:] = [folder for folder in sys.path if folder not in ("", here)]


if __name__ == "__main__":
    sys.exit(main())
