"""The connection that writes, as the writer uses it: it lives in the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from stage.core.errors import StaleEpoch, StoreUnavailable
from stage.ports.codec import Codec
from stage.store import rows
from stage.store.connection import CommitRefused, Connection
from stage.store.postgres.errors import away, interrupted, refused_at_commit, unavailable
from stage.store.postgres.identity import Timeline
from stage.store.postgres.link import Link
from stage.store.postgres.replica import PostgresReplica
from stage.store.postgres.scrub import copy_anew
from stage.store.postgres.unit import run_unit
from stage.store.postgres.writes import Writes
from stage.store.queue import Waiting

T = TypeVar("T")


COMMIT_SECONDS_MAX: Final = 60.0
"""How long a connection may keep silent behind a COMMIT: the replica writes nothing meanwhile, and
keeps its lease by another connection."""


class _Unclear(Exception):
    """The server said something else than COMMIT to a COMMIT."""


class PostgresConnection:
    """store.connection.Connection on one connection to the server."""

    def __init__(
        self, link: Link, codec: Codec, replica: PostgresReplica, timeline: Timeline
    ) -> None:
        self._link = link
        self._codec = codec
        self._replica = replica
        self._timeline = timeline
        self._writes = Writes()
        self._number = 0
        self._me = 0
        self._older = timeline.older
        self._found = self._older.found

    async def begin(self, *, patient: bool) -> None:
        """See store.connection.Connection."""
        self._writes = Writes()
        try:
            self._older.refuse(self._found)
            self._me = await self._replica.registered()
            await self._link.script("begin_patient" if patient else "begin_brief")
        except Exception as error:
            await self.drop()
            raise away(error) from error

    async def run_units(self, units: Sequence[Waiting]) -> Waiting | None:
        """See store.connection.Connection."""
        for each in units:
            each.error = None
            try:
                each.value = await run_unit(
                    self._link, self._writes, each.work, each.context, self._codec, self._me
                )
            except BaseException as error:
                each.error = error
            if not self._link.in_transaction:
                return each
        return None

    async def number(self, number: int) -> None:
        """See store.connection.Connection."""
        self._number = number
        try:
            await self._write(number)
        except CommitRefused:
            await self.drop()
            raise
        except Exception as error:
            closed = self._link.closed
            await self.drop()
            if (held := interrupted(error)) is not None:
                raise CommitRefused(again=True) from held
            if (gone := unavailable(error, closed=closed)) is not None:
                raise gone from error
            raise CommitRefused from error

    async def _write(self, number: int) -> None:
        writes = self._writes
        columns = writes.parameters(self._codec)
        writer = self._timeline.writer
        ((ids, added, before),) = await self._link.fetch(
            "write_batch", writer, number, self._me, *columns
        )
        # Behind a pooler a failover breaks no connection, so that none was made that is looked at.
        self._timeline.check_number(before)
        self._older.refuse(self._found)
        for saga_id in writes.sagas.keys() - set(ids):
            await self._refuse(saga_id)
        expected = sum(len(write.entries) for write in writes.sagas.values())
        if added != expected:
            raise CommitRefused from ValueError(f"{added} of {expected} entries could be added")

    async def _refuse(self, saga_id: str) -> None:
        """Raise CommitRefused with the reason why the server did not write this saga."""
        write = self._writes.sagas[saga_id]
        if write.held is None:
            raise CommitRefused(again=True) from KeyError(saga_id)
        found = await self._link.fetch("held_saga", saga_id)
        try:
            if found and found[0][:2] == write.held:
                raise StaleEpoch(f"saga {saga_id} is held by another replica; drop this run")
            row, epoch = write.row, write.held[0]
            rows.refuse(row, epoch, len(write.entries), found[0] if found else None)
        except (StaleEpoch, ValueError) as reason:
            raise CommitRefused from reason

    async def commit(self) -> None:
        """See store.connection.Connection. Never cancelled: a server that is asked to cancel a
        COMMIT may say so, and commit. A connection that keeps silent is closed, of which the server
        hears nothing before it has committed.
        """
        self._link.warned = ""
        try:
            committing = asyncio.ensure_future(self._link.commit())
            answered, _ = await asyncio.wait((committing,), timeout=COMMIT_SECONDS_MAX)
            if not answered:
                self._link.raw.terminate()
            word = await committing
        except Exception as error:
            if refused_at_commit(error):
                raise CommitRefused from error
            raise
        if word != "COMMIT" or self._link.warned:
            raise _Unclear(self._link.warned or word)
        self._timeline.landed(self._number)

    async def drop(self) -> None:
        """See store.connection.Connection."""
        await self._link.drop()

    async def scrub(self, clean: set[str]) -> None:
        """See store.connection.Connection: the tables that hold contents are written anew."""
        try:
            await copy_anew(self._link, clean)
        except StoreUnavailable:
            raise
        except Exception as error:
            raise StoreUnavailable(
                f"the tables could not be copied ({error}): it needs their owner, and free space"
                " for as much again"
            ) from error

    async def last_number(self) -> int:
        """See store.connection.Connection."""
        return await self._link.settled(self._timeline.writer)

    async def landed(self, number: int) -> bool:
        """See store.connection.Connection. It waits for the transaction that is in doubt."""
        try:
            landed = await self.last_number() == number
        except Exception as error:
            raise away(error) from error
        if landed:
            self._timeline.landed(number)
        return landed


class PostgresHome:
    """store.connection.Home: the connection lives in the event loop."""

    def __init__(self, connection: PostgresConnection) -> None:
        self._connection = connection

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """See store.connection.Home."""
        return await work(self._connection)
