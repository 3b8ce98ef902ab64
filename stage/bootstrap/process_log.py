"""Log lines about the process: its start, its readiness with the reason why not, its end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Final

from stage.config import Config, describe
from stage.config.describe import DEFAULT
from stage.core.version import __version__
from stage.ports.engine import Engine
from stage.ports.store import Store
from stage.telemetry import logs

LOOK_SECONDS: Final = 0.25
READY: Final = ""
"""In the place of a reason why not."""
RECOVERS: Final = "it takes over what was under way"
STUCK: Final = "code of the author does not come to an end: see code_stuck"


def log_start(stage: str, config: Config) -> None:
    """A line before its ports are open: the release, and the origin of each setting of its own.

    The values are not in it: `stage config` shows them, to somebody who may read the files.
    """
    origins = {line.name: line.origin for line in describe(config) if line.origin != DEFAULT}
    logs.default_logger().info("started", stage=stage, release=__version__, settings=origins)


def announce(config: Config, port: int, admin_port: int | None) -> None:
    """Say on stdout where it listens, for the program that has started it, if that still reads."""
    scheme = "https" if config.tls_cert else "http"
    host = f"[{config.host}]" if ":" in config.host else config.host
    lines = [f"listening on {scheme}://{host}:{port}"]
    if admin_port is not None:
        lines.append(f"admin on {scheme}://{host}:{admin_port}")
    try:
        for line in lines:
            print(line, flush=True)
    except OSError:
        # Its disk is full, or its reader gone: the exit would fail again on what is left.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def log_drain(live: int, config: Config) -> None:
    """A signal came: how many sagas are live, and how long they have."""
    logs.default_logger().info(
        "draining",
        sagas=live,
        delay_seconds=config.drain_delay_seconds,
        seconds=config.drain_seconds,
    )


def log_end(stage: str) -> None:
    """The last line of a process that ended in order."""
    logs.default_logger().info("stopped", stage=stage)


async def log_readiness(engine: Engine, store: Store, stuck: Callable[[], bool]) -> None:
    """A line when the stage becomes ready, and when it is not any more, with the reason.

    Every start takes over first, so that this alone is no line.
    """
    log, before = logs.default_logger(), RECOVERS
    while True:
        reason = READY if engine.ready else _why_not(engine, store, stuck)
        if reason != before:
            if reason == READY:
                log.info("ready")
            else:
                log.warning("not_ready", reason=reason)
            before = reason
        await asyncio.sleep(LOOK_SECONDS)


def _why_not(engine: Engine, store: Store, stuck: Callable[[], bool]) -> str:
    """The reason that an operator can do most about, of those that hold."""
    if engine.draining:
        return "the process drains"
    if store.identity.awaits_release:
        return "the restored database awaits `stage db released`"
    if not store.available:
        return f"the database is away: {store.trouble}"
    return STUCK if stuck() else RECOVERS
