"""Log lines about database and clock: what is served, what goes away or jumps (rules 33, 34)."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from typing import Final

from stage.core.errors import NewerJournal, StoreUnavailable
from stage.core.states import SagaState
from stage.engine.clock import JUMP_SECONDS, jump_of
from stage.inbound.service import Service
from stage.ports.clock import Clock
from stage.ports.engine import Queries, SagaLost, Snapshot
from stage.ports.store import Changes, SagaRow, Store
from stage.store.postgres.address import POSTGRESQL, unverified
from stage.telemetry import logs
from stage.wire.envelope import format_instant

LOOK_SECONDS: Final = 0.25
LATEST_MAX: Final = 20
"""Sagas that are compared with the stage at its start."""
LATEST_SECONDS: Final = (600.0, 3_600.0, 86_400.0, 30 * 86_400.0)
"""How far back they are looked for: a day only where none changed in the last hour."""


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


def log_unverified(url: str) -> None:
    """A warning at start about a server that need not prove who it is.

    The driver's default over TCP is TLS where the server offers it, without a look at its
    certificate: a machine that answers in its place reads every saga, and may read the password.
    """
    if url.startswith(POSTGRESQL) and (host := unverified(url, os.environ)):
        logs.default_logger().warning(
            "database_not_verified",
            path=host,
            reason="the server need not prove who it is: give the URL sslmode=verify-full and"
            " sslrootcert=FILE, the authority of its certificate",
        )


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


async def log_misfits(store: Store, queries: Queries, service: Service) -> None:
    """A warning at start where the latest sagas fit this process no more (rule 32).

    A deploy that has lost a setting shows so. Nothing else tells that a downstream is missing: new
    sagas are not handed on to it, and complete.
    """
    newest, reasons = service.participant.plan, []
    try:
        for row in await _latest(store, service.clock.now()):
            found = await _found(queries, row)
            if found is not None and (plan := found.saga.under(newest)).misfit and not plan.newer:
                reasons.append(plan.misfit)
    except (StoreUnavailable, NewerJournal):
        return  # a saga that does not fit is parked when it is run, or left to a newer release
    if reasons:
        logs.default_logger().warning("sagas_do_not_fit", count=len(reasons), reason=reasons[0])


async def _found(queries: Queries, row: SagaRow) -> Snapshot | None:
    """The saga of a row that was just read. None of one that is undone, or only a newer release
    can read, or that retention has dropped since."""
    if row.state is SagaState.COMPENSATED:
        return None
    with suppress(NewerJournal, SagaLost):
        return await queries.get_saga(row.id)
    return None


async def _latest(store: Store, now: float) -> list[SagaRow]:
    """Some of the sagas that changed last. A start does not read all that are there."""
    for seconds in LATEST_SECONDS:
        if found := await store.changed(Changes(at=now - seconds, limit=LATEST_MAX)):
            return found
    return []


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
