"""The store on a PostgreSQL database: one connection writes, a bounded pool reads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources.abc import Traversable
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.core.steps import VERSION_MAX
from stage.ports.codec import Codec
from stage.ports.identity import Identity
from stage.ports.ownership import Ownership
from stage.ports.store import Backlog, Filter, Row, Unit
from stage.store import migrate, rows
from stage.store.asked import earliest
from stage.store.batches import Committed
from stage.store.codec import PLAIN
from stage.store.lanes import Lanes
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.connection import PostgresConnection, PostgresHome
from stage.store.postgres.dialect import PostgresDialect
from stage.store.postgres.errors import away, unavailable
from stage.store.postgres.identity import Timeline, read_identity, refuse_owner, take, unpromised
from stage.store.postgres.link import Link, connect
from stage.store.postgres.older_state import OlderState
from stage.store.postgres.payload_keys import record_key
from stage.store.postgres.pool import Pool
from stage.store.postgres.replica import LEASE_SECONDS, PostgresReplica
from stage.store.postgres.scrub import wait_for_snapshots
from stage.store.queries import StatementQueries
from stage.store.queue import LoopChannel
from stage.store.writer import Writer, WriterLimits

T = TypeVar("T")


class PostgresLimits(WriterLimits, frozen=True, kw_only=True):
    """The limits of a store on a server, each with its default."""

    units_per_batch_max: int = 64
    """Each unit with author SQL is a subtransaction, and a server keeps 64 of them at hand."""
    readers: int = 4
    """Connections beside the one that writes and the one that renews the lease."""
    lanes: int = 2
    """Connections for units whose rows somebody else holds."""
    lane_units_max: int = 64
    """Units that may wait in a lane; beyond it they fail as if the database were away."""
    lease_seconds: float = LEASE_SECONDS


DEFAULT_LIMITS: Final = PostgresLimits()
CLOSE_SECONDS_MAX: Final = 2.0
"""How long the last statement of a store that closes may take; nothing rests on it."""


class Listeners(msgspec.Struct, frozen=True, kw_only=True):
    """The recipients of what the store measures; neither ever raises."""

    committed: Committed | None = None
    """Notified of every batch."""
    waited: Callable[[float], None] = lambda _: None
    """Notified of the seconds that each statement of a reader waited for a connection."""
    unpromised: Callable[[str], None] = lambda _: None
    """Notified at `open` of the commits that may be lost with the server, if there are any."""


NOBODY: Final = Listeners()


class PostgresStore(StatementQueries):
    """ports.store.Store on one database, which other replicas may use too.

    `migrations` are the author's folders, applied after ours at `open`. `listeners` are notified of
    batches and waits. A database can be read only with the `codec` that it was written with.
    """

    def __init__(
        self,
        server: DatabaseServer | str,
        *,
        migrations: Sequence[Traversable] = (),
        limits: PostgresLimits = DEFAULT_LIMITS,
        listeners: Listeners = NOBODY,
        codec: Codec = PLAIN,
    ) -> None:
        if not isinstance(server, DatabaseServer):
            server = DatabaseServer(url=server)
        super().__init__(codec)
        self._server = server
        self._listeners = listeners
        self._migrations = tuple(migrations)
        self._made = False
        self._migrated: tuple[str, ...] = ()
        self._closed = True
        self._older = OlderState(self._server)
        checks = (self._check_reader, self._older)
        self._pool = Pool(self._server, limits.readers, listeners.waited, *checks)
        self._timeline = Timeline(self._server, self._older)
        self._replica = PostgresReplica(
            self._server, self._pool, self._codec, limits.lease_seconds, self._timeline
        )
        self._connections = PostgresConnections(
            self._server, self._codec, self._replica, self._timeline
        )
        self._lanes = [
            _Lane(self._server, self._codec, self._replica, self._older, limits)
            for _ in range(limits.lanes)
        ]
        self._aside = Lanes([each.writer for each in self._lanes])
        self._writer = Writer(
            self._connections,
            LoopChannel(),
            limits=limits,
            committed=listeners.committed,
            aside=self._aside.take if self._lanes else None,
        )

    async def open(self, *, upgrade: bool = True) -> None:
        """See ports.store.Store. Without `upgrade` a pending migration is a ConfigurationError."""
        try:
            link = await self._connections.connect()
            await self._prepare(link, upgrade=upgrade)
            self._pool.open()
            self._replica.open()
            await self._replica.renew()  # registers
            await self._replica.renew()  # by a connection that stands, so that the time is exact
            await self._writer.open(self._connections.home(link))
            await link.fetch("drop_old_writers")
            for each in self._lanes:
                await each.open(self.identity)
        except BaseException as error:
            try:
                await self._writer.close()
            finally:
                await self._let_go()
            if (gone := unavailable(error)) is not None:
                raise ConfigurationError(
                    f"the database {self._server.shown} cannot be opened: {gone}"
                ) from error
            raise
        self._closed = False

    async def _check_reader(self, link: Link) -> None:
        """Let nothing be read from an older state: what it lacks is not what never was."""
        await self._timeline.check_reader(link)
        await self._replica.check(link)

    async def _prepare(self, link: Link, *, upgrade: bool) -> None:
        """Bring the schema up to date, and see whose database it is."""
        dialect = PostgresDialect(link)
        if await dialect.applied():
            refuse_owner(await read_identity(link), self._server)
        elif self._server.must_exist or not upgrade:
            raise ConfigurationError(
                f"the database {self._server.shown} is that of no stage yet: give another URL, or"
                " make it with `stage db init`"
            )
        known = await asyncio.to_thread(migrate.collected, dialect, self._migrations)
        if upgrade:
            applied = await migrate.upgrade_known(dialect, known, now=self._server.now())
            self._migrated = tuple(each.title for each in applied)
        else:
            await migrate.check_known(dialect, known)
        await record_key(link, self._codec)
        found = None if upgrade else await read_identity(link)
        taken = await take(link, self._server) if found is None else (found, False)
        self._timeline.identity, self._made = taken
        if missing := await unpromised(link, self._server):
            self._listeners.unpromised(missing)

    async def close(self) -> None:
        """See ports.store.Store."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._writer.close()
            await self._aside.close()
            if self._writer.available:
                async with asyncio.timeout(CLOSE_SECONDS_MAX):
                    for each in (self._timeline, *(lane.timeline for lane in self._lanes)):
                        await self._pool.fetch("drop_writer", each.writer)
        except (StoreUnavailable, TimeoutError):
            pass  # the row is dropped after some days
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        await self._replica.close()
        for each in self._lanes:
            await each.let_go()
        await self._connections.close()
        await self._pool.close()

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """See ports.store.Store. A full queue raises StoreUnavailable at once."""
        return await self._writer.transact(work, deferrable=deferrable)

    async def scrub(self, clean: set[str] | None = None) -> None:
        """See ports.store.Store. The log of the server, and its archive, are not ours to cut."""
        await wait_for_snapshots(self._pool.fetch)
        await self._writer.scrub(clean)

    async def _read_page(self, which: Filter) -> list[Row]:
        page = (which.after, which.limit)
        states = [state.value for state in dict.fromkeys(which.states)] or None
        bounds = (which.changed_from, which.changed_before)
        if which.term is not None:
            known = self._codec.known_terms(which.term.name, which.term.value)
            return await self._pool.fetch("page_term", *page, which.term.name, known)
        if which.waiting:
            cause = None if which.cause is None else which.cause.value
            names = (list(which.steps) or None, list(which.peers) or None)
            place = (which.parked, cause, *names)
            return await self._pool.fetch("page_waiting", *page, states, *place, *bounds)
        if states is not None:
            return await self._pool.fetch("page_states", *page, which.parked, *bounds, states)
        if which.changed_from is not None and which.parked is None:
            return await self._pool.fetch("page_since", *page, *bounds)
        return await self._pool.fetch("page_sagas", *page, which.parked, *bounds)

    async def _read(self, name: str, *parameters: object) -> list[Row]:
        return await self._pool.fetch(name, *parameters)

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See ports.store.Store."""
        found = await self._pool.fetch("seen_sagas", list(saga_ids))
        return frozenset(row[0] for row in found)

    async def envelopes(self, saga_ids: Sequence[str], bytes_max: int) -> dict[str, bytes]:
        """See ports.store.Store."""
        found = await self._pool.fetch("get_envelopes", list(saga_ids), bytes_max)
        return {row[0]: row[1] for row in found}

    async def backlog(self, now: float, version: int = VERSION_MAX) -> Backlog:
        """See ports.store.Store."""
        parked = await self._pool.fetch("count_parked")
        (found,) = await self._pool.fetch("backlog", now, version)
        oldest, longest, undo, newer, lost = found
        ((size,),) = await self._pool.fetch("size_of_tables")
        asked, other = await self._asked.read(now)
        by_cause, unknown = rows.parked(parked)
        return Backlog(
            asked=asked,
            newer=newer + unknown,
            lost=lost,
            parked=by_cause,
            oldest_accepted_at=earliest(oldest, other),
            longest_due_at=longest,
            oldest_compensation_at=undo,
            sizes={"database": size},
        )

    @property
    def queued(self) -> int:
        """How many units wait for the writer."""
        return self._writer.queued + self._aside.queued

    @property
    def ownership(self) -> Ownership:
        """See ports.store.Store."""
        return self._replica

    @property
    def available(self) -> bool:
        """See ports.store.Store."""
        return self._writer.available and not self._older.refusal

    @property
    def trouble(self) -> str:
        """See ports.store.Store."""
        return self._older.refusal or self._writer.trouble

    @property
    def identity(self) -> Identity:
        """See ports.store.Store."""
        identity = self._timeline.identity
        assert identity is not None, "the store was never opened"
        return identity

    @property
    def place(self) -> str:
        """See ports.store.Store."""
        return self._server.shown

    @property
    def made(self) -> bool:
        """See ports.store.Store."""
        return self._made

    @property
    def migrated(self) -> Sequence[str]:
        """See ports.store.Store."""
        return self._migrated


class _Lane:
    """One writer of `Lanes`, with its connection and its own numbers of batches."""

    def __init__(
        self,
        server: DatabaseServer,
        codec: Codec,
        replica: PostgresReplica,
        older: OlderState,
        limits: PostgresLimits,
    ) -> None:
        self.timeline = Timeline(server, older)
        self._connections = PostgresConnections(server, codec, replica, self.timeline)
        alone = replace(limits, units_per_batch_max=1, queue_units_max=limits.lane_units_max)
        self.writer = Writer(self._connections, LoopChannel(), limits=alone)

    async def open(self, identity: Identity) -> None:
        """Connect to the database of that identity."""
        self.timeline.identity = identity
        await self.writer.open(self._connections.home(await self._connections.connect()))

    async def let_go(self) -> None:
        """Stop, also where the store could not be opened, and close the connection."""
        await self.writer.close()
        await self._connections.close()


class PostgresConnections:
    """store.connection.Connections: the connection that writes."""

    def __init__(
        self,
        server: DatabaseServer,
        codec: Codec,
        replica: PostgresReplica,
        timeline: Timeline,
    ) -> None:
        self._server = server
        self._codec = codec
        self._replica = replica
        self._timeline = timeline
        self._link: Link | None = None

    async def connect(self) -> Link:
        """A new connection in place of the one that is there. Raises StoreUnavailable."""
        await self.close()
        self._link = await connect(self._server)
        return self._link

    def home(self, link: Link) -> PostgresHome:
        """The connection as the writer uses it."""
        connection = PostgresConnection(link, self._codec, self._replica, self._timeline)
        return PostgresHome(connection)

    async def reopen(self) -> PostgresHome:
        """See store.connection.Connections. Another or an older database is refused."""
        try:
            link = await self.connect()
            await self._timeline.older.check_again(link)
            await self._timeline.check(link)
            await self._replica.check(link)
        except Exception as error:
            raise away(error) from error
        return self.home(link)

    async def close(self) -> None:
        """Close it, if it is open."""
        link, self._link = self._link, None
        if link is not None:
            await link.close()
