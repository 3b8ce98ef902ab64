"""Scrubbing: the tables with contents of sagas are written anew, without the rows that are gone.

A server keeps a row version for as long as an older snapshot may look at it, also through VACUUM
FULL, and says nothing of that. So it begins once no older snapshot is left. A table that somebody
reads is not waited for in the queue of its locks, where all who come later would wait too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from stage.core.errors import StoreUnavailable
from stage.ports.store import Row
from stage.store.postgres.link import Link

ORDERS: Final = "act_key"
"""Is small, and never clean for long: an order of meanwhile may name the number that is erased."""
TABLES: Final = ("lost_saga", "signal", ORDERS, "saga_term", "saga", "journal")
"""The tables that hold contents of sagas, or digests, the large ones last: a scrub that meets a
table in use is often asked for again from the beginning, and so has copied little."""
SNAPSHOTS_SECONDS_MAX: Final = 5.0
"""How long it waits for older snapshots to end. Units go on meanwhile."""
LOOK_SECONDS: Final = 0.1
LOCK_TRIES_MAX: Final = 300
"""How often the lock of a table is tried for. Units wait meanwhile, and others do not."""
LOCK_SECONDS: Final = 0.01
SHOWN_MAX: Final = 3

Fetch = Callable[..., Awaitable[list[Row]]]


async def wait_for_snapshots(fetch: Fetch) -> None:
    """Return once no snapshot sees what was gone at the call. Raises StoreUnavailable, with who."""
    ((boundary,),) = await fetch("snapshot_boundary")
    until = asyncio.get_running_loop().time() + SNAPSHOTS_SECONDS_MAX
    while held := await fetch("older_snapshots", boundary):
        if asyncio.get_running_loop().time() >= until:
            raise StoreUnavailable(
                f"the server keeps deleted rows for {_shown(held)}: end that, or wait for its end"
            )
        await asyncio.sleep(LOOK_SECONDS)


async def copy_anew(link: Link, clean: set[str]) -> None:
    """Write every table anew that is not `clean`, and add it there, but ORDERS.

    Raises StoreUnavailable where others hold one, with who they are.
    """
    for table in TABLES:
        if table in clean:
            continue
        for _ in range(LOCK_TRIES_MAX):
            if await link.vacuum(f"copy_{table}_anew", f"stage.{table}"):
                clean.update({table} - {ORDERS})
                break
            await asyncio.sleep(LOCK_SECONDS)
        else:
            held = await link.fetch("holders_of_table", f"stage.{table}")
            raise StoreUnavailable(
                f"the table {table} is in use by {_shown(held)}: end that, or wait for its end"
                + (f" (the server says: {link.warned})" if link.warned else "")
            )


def _shown(held: list[Row]) -> str:
    names = [str(name) for (name,) in held] or ["others, who come and go"]
    more = len(names) - SHOWN_MAX
    return ", ".join(names[:SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
