"""The root of the command line, and the one door through which every failure leaves.

Exit status: 0 done; 1 the answer is a no, or is not known; 2 it could not be done, and a line on
stderr says how to mend that; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from stage import __version__
from stage.cli.asl import asl
from stage.cli.check import check
from stage.cli.compensate import compensate
from stage.cli.db import db
from stage.cli.demo import demo
from stage.cli.dev import dev
from stage.cli.erase import erase
from stage.cli.export import export
from stage.cli.failure import FAILED, INTERRUPTED, NEGATIVE, Failure, one_line
from stage.cli.new import new
from stage.cli.operate import (
    abandon,
    approvals,
    approve,
    forget,
    plan,
    reject,
    resolve,
    retry,
    settle,
)
from stage.cli.overview import audit, groups, peers
from stage.cli.pause import pause, pauses, resume
from stage.cli.purge import purge
from stage.cli.reconcile import reconcile
from stage.cli.sagas import sagas, show
from stage.cli.send import send
from stage.cli.serve import serve
from stage.cli.settings import config, openapi
from stage.cli.simulate import simulate
from stage.cli.sweep import sweep, sweeps
from stage.cli.temporal import temporal
from stage.cli.tokens import keys
from stage.cli.top import top
from stage.cli.trace import trace
from stage.core.errors import StageError

STDERR = 2
"""The number of the last of the streams that a process begins with."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, package_name="saga-stage", message="stage %(version)s")
def cli() -> None:
    """Middleware for the service in the middle of a chain of HTTP APIs."""


COMMANDS = (
    *(demo, new, check, dev, serve, db, send, top, sagas, groups, peers, show, trace, plan),
    *(approvals, approve, reject),
    *(compensate, retry, settle, resolve, abandon, forget, erase, purge, reconcile),
    *(sweep, sweeps, pause, resume, pauses, audit, export),
    *(config, keys, openapi, simulate, temporal, asl),
)
for command in COMMANDS:
    cli.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status. A known failure is a line on stderr."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our signs still gets text
    try:
        status = cli.main(arguments, prog_name="stage", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "stage"
        return _fail(f"{error.format_message()} (see {where} --help)", FAILED)
    except click.ClickException as error:
        return _fail(error.format_message(), FAILED)
    except Failure as error:
        return _fail(str(error), error.status)
    except StageError as error:
        return _fail(str(error), FAILED)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`stage sagas | head`). Nothing is left to say, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NEGATIVE  # what click says of a pipe that it sees break


def _open_streams() -> None:
    """Open what the parent has closed, so that no file of ours gets the number of a stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process


def _fail(message: str, status: int) -> int:
    """One line a problem, each of them said to be ours."""
    for line in message.splitlines() or [""]:
        if line.strip():
            print(f"stage: {one_line(line)}", file=sys.stderr)
    return status
