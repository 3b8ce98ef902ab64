"""Log lines about database and clock: what is served, what goes away or jumps (rules 33, 34)."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from stage.core.errors import StoreUnavailable
from stage.engine.clock import JUMP_SECONDS, jump_of
from stage.ports.clock import Clock
from stage.ports.engine import Queries
from stage.ports.store import Store
from stage.telemetry import logs
from stage.wire.envelope import format_instant

LOOK_SECONDS: Final = 0.25


def log_database(store: Store) -> None:
    """One line at start: the absolute path and the identity. A warning where it was made anew.

    A second one where the schema of a database that was there has grown.
    """
    identity = store.identity
    log = logs.default_logger()
    say = log.warning if store.made else log.info
    say(
        "database_made" if store.made else "database_opened",
        path=store.place,
        database_id=identity.id,
        generation=identity.generation,
        born_at=format_instant(identity.born_at),
        stage=identity.stage,
    )
    if store.migrated and not store.made:
        log.warning("migrations_applied", path=store.place, detail=", ".join(store.migrated))


def log_skew(store: Store) -> None:
    """A warning at start about a machine whose clock is not that of its database (rule 34)."""
    shared = store.ownership.time
    if shared is not None and abs(ahead := time.time() - shared) > JUMP_SECONDS:
        logs.default_logger().warning("clock_skewed", seconds=round(ahead, 3), path=store.place)


def report_waiting(reason: str) -> None:
    """One line at start when another process has the database and is waited for."""
    logs.default_logger().warning("database_awaited", reason=reason)


def report_unpromised(reason: str) -> None:
    """A warning at start where commits that are answered may be lost with the server."""
    logs.default_logger().warning("commits_may_be_lost", reason=reason)


async def log_newer(queries: Queries) -> None:
    """A warning at start about sagas of a newer release: they wait for it (rule 32)."""
    try:
        newer = (await queries.backlog()).newer
    except StoreUnavailable:
        return  # the gauge shows them later
    if newer:
        logs.default_logger().warning("sagas_of_a_newer_version", count=newer)


async def log_trouble(store: Store, clock: Clock) -> None:
    """A line when the database goes away, when the reason changes, and when it is back.

    Likewise when the wall clock jumps, and when it is believed again.
    """
    log, before, jumped = logs.default_logger(), "", 0.0
    while True:
        clock.now()  # reads it, also where nothing else does
        jump = jump_of(clock)
        if abs(jump - jumped) > JUMP_SECONDS:
            log.warning("clock_jumped" if jump else "clock_believed", seconds=round(jump, 3))
            jumped = jump
        trouble = store.trouble
        if trouble != before:
            if trouble:
                log.error("database_away", reason=trouble)
            else:
                log.warning("database_back")
            before = trouble
        await asyncio.sleep(LOOK_SECONDS)
