"""Whose a database is, and whether it is still the one that this process opened (rule 33).

Another database is recognised by its identity. An older state of the same one, such as a standby
that was promoted without the last commits, is recognised by the number of our last durable batch.
"""

from __future__ import annotations

import time
import uuid
from functools import partial
from typing import Final

from stage.core.errors import StoreUnavailable
from stage.ports.identity import Identity
from stage.store import identity as whose
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.link import Link
from stage.store.postgres.older_state import OlderState

NUMBER_SECONDS: Final = 86_400.0
"""A number that is older proves nothing at the first look: after a week without a batch it is
forgotten in order. A refusal that holds already is not ended by it."""


async def read_identity(link: Link) -> Identity | None:
    """The identity, or None where there is none yet."""
    found = await link.fetch("get_identity")
    return whose.identity_of(found[0]) if found else None


def refuse_owner(found: Identity | None, server: DatabaseServer) -> None:
    """Raise ConfigurationError for the database of another stage."""
    whose.refuse_owner(found, server, place=server.shown, fix="a database of its own")


async def take(link: Link, server: DatabaseServer) -> tuple[Identity, bool]:
    """The identity of an upgraded database, which gets one if it has none; whether it was made."""
    found, now = await read_identity(link), server.now()
    if found is None:
        ((born_at,),) = await link.fetch("first_migrated")
        made = whose.new_identity(server, now, born_at)
        await link.fetch("make_identity", *whose.values(made))
        found = await read_identity(link)
        assert found is not None
        refuse_owner(found, server)
        return found, found == made
    named = whose.named(found, server)
    if named != found:
        await link.fetch("name_identity", named.stage, named.release)
    return named, False


async def unpromised(link: Link, server: DatabaseServer) -> str:
    """Which commits that were answered may be lost with the server; empty: none."""
    ((commit, standbys),) = await link.fetch("durability")
    if commit == "off":
        return (
            "synchronous_commit is off: the server answers before anything is on its disk. Set it"
            " to on, for this user at least"
        )
    if server.hosts > 1 and not standbys:
        return (
            "no standby is synchronous: a failover may lose the last commits, and the stage then"
            " refuses the server until that is accepted. Set synchronous_standby_names"
        )
    if server.hosts > 1 and commit == "local":
        return "synchronous_commit is local: COMMIT waits for no standby. Set it to on"
    return ""


class Timeline:
    """The identity that was opened and how far its writer came: every new connection is held to it.

    `writer` is drawn anew at each start and names the row of this process's batch numbers.
    """

    def __init__(self, server: DatabaseServer, older: OlderState) -> None:
        self._server = server
        self.older = older
        """Shared by all that use the database in this process."""
        self.identity: Identity | None = None
        self.writer = uuid.uuid4().hex
        self.number = 0
        """The highest number of a batch that is certainly durable."""
        self._landed_at = 0.0

    def landed(self, number: int) -> None:
        """The batch of that number is durable."""
        self.number, self._landed_at = number, time.monotonic()

    async def check(self, link: Link) -> None:
        """Raise StoreUnavailable unless this is the same database, and no older state of it.

        It waits for a batch in doubt.
        """
        await self.check_identity(link)
        self.check_number(await link.settled(self.writer))

    async def check_reader(self, link: Link) -> None:
        """As `check`, and writes nothing."""
        await self.check_identity(link)
        self.check_number(await self._read_number(link))

    def check_number(self, number: int) -> None:
        """Raise StoreUnavailable where the number that a database has is one of an older state."""
        kept = time.monotonic() < self._landed_at + NUMBER_SECONDS
        if number < self.number and kept:
            lacks = f"{self.number - number} batches of this process are missing"
            self.older.hold(lacks, partial(self._has, self.number))

    async def _has(self, number: int, link: Link) -> bool:
        await self.check_identity(link)
        return await self._read_number(link) >= number

    async def _read_number(self, link: Link) -> int:
        found = await link.fetch("last_batch", self.writer)
        return int(found[0][0]) if found else 0

    async def check_identity(self, link: Link) -> None:
        """Raise StoreUnavailable for another database, and for another generation of this one."""
        self.refuse_other(await read_identity(link))

    def refuse_other(self, found: Identity | None) -> None:
        """Raise StoreUnavailable for another database, and for another generation of this one."""
        known = self.identity
        assert known is not None
        where = self._server.shown
        if found is None or found.id != known.id:
            raise StoreUnavailable(
                f"another database stands at {where}: put back the one that was opened, or restart"
                " the stage to use this one"
            )
        if found.generation != known.generation:
            raise StoreUnavailable(
                f"the database {where} was restored under the running stage: restart it"
            )
