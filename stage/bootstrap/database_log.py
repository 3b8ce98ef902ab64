"""Log lines about the database itself: which one is served, and when it goes away (rule 33)."""

from __future__ import annotations

import asyncio
from typing import Final

from stage.ports.store import Store
from stage.store.sqlite.store import SqliteStore
from stage.telemetry import logs
from stage.wire.envelope import format_instant

LOOK_SECONDS: Final = 0.25


def tell_database(store: Store) -> None:
    """One line at start: the absolute path and the identity. A warning where it was made anew."""
    identity = store.identity
    path = str(store.path) if isinstance(store, SqliteStore) else "memory"
    made = isinstance(store, SqliteStore) and store.made
    log = logs.default_logger()
    say = log.warning if made else log.info
    say(
        "database_made" if made else "database_opened",
        path=path,
        database_id=identity.id,
        generation=identity.generation,
        born_at=format_instant(identity.born_at),
        stage=identity.stage,
    )


async def tell_trouble(store: Store) -> None:
    """A line when the database goes away, when the reason changes, and when it is back."""
    log, before = logs.default_logger(), ""
    while True:
        trouble = store.trouble
        if trouble != before:
            if trouble:
                log.error("database_away", reason=trouble)
            else:
                log.warning("database_back")
            before = trouble
        await asyncio.sleep(LOOK_SECONDS)
