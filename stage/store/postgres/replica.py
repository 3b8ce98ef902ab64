"""Ownership on PostgreSQL: registrations with a lease by the time of the database, claims, mail.

A frozen process cannot know how long it was frozen. Its lease therefore ends locally before it ends
in the database: it is counted from the instant before the renewal was sent, by a clock that runs on
while the machine sleeps, and less a margin.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Final

from stage.core.age import WAIT_SECONDS_MAX
from stage.core.errors import NewerJournal, StoreUnavailable
from stage.core.events import Event
from stage.core.steps import VERSION_MAX
from stage.ports.codec import Codec
from stage.ports.ownership import Mail, Posted, Share
from stage.ports.store import Row
from stage.store.identity import identity_of
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.errors import away
from stage.store.postgres.identity import Timeline
from stage.store.postgres.link import DRIVER_ERRORS, Link, connect
from stage.store.postgres.pool import Pool

LEASE_SECONDS: Final = 10.0
RENEWALS_PER_LEASE: Final = 4
MARGIN: Final = 0.1
"""The part of a lease that is not relied on."""
UNNUMBERED: Final = 0
"""The number of an event that its owner has yet to journal (ports.codec.Codec)."""
LOST_RENEWAL: Final = "a renewal of the lease of this process is missing"
LOOK_SECONDS: Final = 0.05
"""How often sagas that others run are looked at, as long as somebody here waits for one."""
OWN_SAGAS_MAX: Final = 100_000
"""Sagas of this process that are looked at behind a claim in doubt: as many as a start claims."""
RENEWAL_SHARE: Final = 0.3
RENEWAL_SECONDS_MIN: Final = 1.0
"""A connection that keeps silent for that part of a lease, and for so long, has died."""
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class PostgresReplica:
    """ports.ownership.Ownership of one process.

    Renewals use a pool of their own, so that they never wait for anything else.
    """

    def __init__(
        self,
        server: DatabaseServer,
        pool: Pool,
        codec: Codec,
        lease_seconds: float,
        timeline: Timeline,
    ) -> None:
        self._timeline = timeline
        self._process = timeline.writer
        """On a dump that was put back another process may be given the number of this one."""
        self._older = timeline.older
        self._server = server
        self._pool = pool
        self._renewals = Pool(server, 1, older=self._older)
        self._codec = codec
        self._lease_seconds = lease_seconds
        self._me: int | None = None
        self._lease_until: datetime | None = None
        """As the last renewal left it in the database."""
        self._sure_until = 0.0
        self._dead = False
        """True from when it was declared dead until `renew` has said so, which loses its sagas."""
        self._claim_in_doubt = False
        """True from a claim until its answer was read to the end."""
        self._share = Share()
        self._time = ServerTime()
        self._registering = asyncio.Lock()
        self._waits = _Waits(self)

    def open(self) -> None:
        """Let statements in."""
        self._renewals.open()

    async def close(self) -> None:
        """Give up everything, as far as the database can be reached."""
        with suppress(StoreUnavailable):
            await self.leave()
        await self._waits.close()
        await self._renewals.close()

    async def registered(self) -> int:
        """The registration, a new one where there is none. Raises StoreUnavailable."""
        if self._me is None:
            async with self._registering:
                if self._me is None:
                    await self._check_identity()
                    began = _now()
                    (row,) = await self._renewals.fetch(
                        "register", self._server.replica_name, self._lease_seconds, self._process
                    )
                    self._me = int(row[0])
                    self._extend(began, row)
        return self._me

    async def _check_identity(self) -> None:
        """Raise StoreUnavailable where a backup was put back while this process slept.

        No connection has to break for that, so that none was made which is looked at.
        """
        found = await self._renewals.fetch("get_identity")
        try:
            self._timeline.refuse_other(identity_of(found[0]) if found else None)
        except StoreUnavailable:
            await self._pool.drop_idle()
            raise

    def _extend(self, began: float, row: Row) -> None:
        _, replicas, first, at, self._lease_until = row
        self._time.learn(at, began, _now())
        self._share = Share(replicas=replicas, first=first)
        self._sure_until = began + self._lease_seconds * (1 - MARGIN)

    @property
    def sure(self) -> bool:
        """See ports.ownership.Ownership."""
        alive = not self._dead and self._me is not None and not self._older.refusal
        return alive and _now() < self._sure_until

    async def assured(self) -> None:
        """See ports.ownership.Ownership."""
        while not self.sure:  # noqa: ASYNC110 - the renewal that is waited for may come at any time
            await asyncio.sleep(LOOK_SECONDS)

    @property
    def renew_seconds(self) -> float | None:
        """See ports.ownership.Ownership."""
        return self._lease_seconds / RENEWALS_PER_LEASE

    async def renew(self) -> bool:
        """See ports.ownership.Ownership.

        The database may be away in between, and a claim may register first: all the same nothing
        is sure until the caller hears of the death, and loses what it had under the old name.
        """
        if self._older.refusal:
            await self._by_new_connection(self._older.check_again)
        if self._me is None:
            await self.registered()
        else:
            await self._renew(self._me, self._lease_until)
        alive, self._dead = not self._dead, False
        return alive

    async def _renew(self, me: int, until: datetime | None) -> None:
        began = _now()
        found = await self._promptly("renew", me, self._lease_seconds, until, self._process)
        if found:
            self._extend(began, found[0])
            return
        ((lacks,),) = await self._renewals.fetch("lacks_lease", me, until, self._process)
        if lacks:
            self._older.hold(LOST_RENEWAL, partial(self._has_lease, me, until))
        self._me, self._dead = None, True
        await self.registered()

    async def _promptly(self, name: str, *parameters: object) -> list[Row]:
        """The rows of a statement, which is asked once more where a connection keeps silent.

        No packet comes back from a server that has moved, or through a gateway that has forgotten
        the connection; the lease would be over before that is noticed.
        """
        seconds = max(self._lease_seconds * RENEWAL_SHARE, RENEWAL_SECONDS_MIN)
        try:
            async with asyncio.timeout(seconds):
                return await self._renewals.fetch(name, *parameters)
        except TimeoutError:
            return await self._renewals.fetch(name, *parameters)

    async def check(self, link: Link) -> None:
        """Raise StoreUnavailable where a renewal is missing: an older state of the database.

        It may lack what other replicas wrote since, though it has all that this one did.
        """
        me, until = self._me, self._lease_until
        if me is not None:
            ((lacks,),) = await link.fetch("lacks_lease", me, until, self._process)
            if lacks:
                self._older.hold(LOST_RENEWAL, partial(self._has_lease, me, until))

    async def _has_lease(self, me: int, until: datetime | None, link: Link) -> bool:
        await self._timeline.check_identity(link)
        return bool(await link.fetch("has_lease", me, until, self._process))

    async def _by_new_connection(self, work: Callable[[Link], Awaitable[None]]) -> None:
        link = await connect(self._server)
        try:
            await work(link)
        except DRIVER_ERRORS as error:
            raise away(error) from error
        finally:
            await link.close()

    @property
    def time(self) -> float | None:
        """See ports.ownership.Ownership: as of the last renewals."""
        return self._time.at(_now())

    @property
    def share(self) -> Share:
        """See ports.ownership.Ownership."""
        return self._share

    async def claim(self, now: float, limit: int, version: int = VERSION_MAX) -> dict[str, int]:
        """See ports.ownership.Ownership."""
        me = await self.registered()
        await self._pool.fetch("bury", me)
        await self._pool.fetch("forget_dead")
        await self._pool.fetch("recall_forgotten")
        doubted, self._claim_in_doubt = self._claim_in_doubt, True
        found: list[Row] = await self._pool.fetch("claim_dead", me, limit, version)
        if doubted:  # what that claim gave us is ours, and its ids were never read
            found += await self._pool.fetch("own_unfinished", me, OWN_SAGAS_MAX, version)
        times = (now, now + WAIT_SECONDS_MAX)
        for name in ("own_due", "claim_due"):
            left = limit - len(found)
            if left > 0:
                found += await self._pool.fetch(name, me, left, version, *times)
        self._claim_in_doubt = False
        return {saga_id: length for _, saga_id, length in sorted(found)}

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """See ports.ownership.Ownership."""
        if self._me is None:
            return
        rests = {each: length for each, length in sagas.items() if length is not None}
        if rests:
            await self._pool.fetch("release", self._me, list(rests), list(rests.values()))
        if unread := [each for each, length in sagas.items() if length is None]:
            await self._pool.fetch("release_unread", self._me, unread)

    async def leave(self) -> None:
        """See ports.ownership.Ownership."""
        me, self._me, self._sure_until = self._me, None, 0.0
        if me is None:
            return
        if self._older.refusal:
            await self._by_new_connection(partial(self._leave_older, me))
        else:
            await self._promptly("leave", me, self._process)

    async def _leave_older(self, me: int, link: Link) -> None:
        """Its operator waits for the end of all replicas before it is accepted as it is."""
        await self._timeline.check_identity(link)
        await link.fetch("leave", me, self._process)

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """See ports.ownership.Ownership."""
        return await self._waits.changed(saga_id, length, until)

    async def lengths(self, saga_ids: Sequence[str]) -> dict[str, tuple[int, bool]]:
        """Number of entries of these sagas, and whether a live other replica owns them."""
        found = await self._pool.fetch("lengths", await self.registered(), list(saga_ids))
        return {saga_id: (length, elsewhere) for saga_id, length, elsewhere in found}

    async def post(self, saga_id: str, event: Event) -> Posted | None:
        """See ports.ownership.Ownership."""
        encoded = self._codec.encode_event(saga_id, UNNUMBERED, event)
        found = await self._pool.fetch("post", await self.registered(), saga_id, encoded)
        return Posted(number=found[0][0], epoch=found[0][1]) if found else None

    async def unreceived(self, number: int) -> bool:
        """See ports.ownership.Ownership."""
        return bool(await self._pool.fetch("unreceived", number))

    async def mail(self) -> list[Mail]:
        """See ports.ownership.Ownership."""
        if self._me is None:
            return []
        mail: list[Mail] = []
        for number, saga_id, encoded, epoch in await self._pool.fetch("mail", self._me):
            # Mail that only a newer release can read stays here: its sender asks again.
            with suppress(NewerJournal):
                event = self._codec.decode_event(saga_id, UNNUMBERED, encoded)
                mail.append(Mail(number=number, saga_id=saga_id, event=event, epoch=epoch))
        return mail


class ServerTime:
    """The clock of the server, as far as answers that took a while pin it down.

    Between two answers it goes on by the monotonic clock. Each answer proves bounds. The last quick
    one counts until another contradicts it, so that slow answers do not make the time jump.
    """

    def __init__(self) -> None:
        self._least = self._most = math.nan
        """Bounds of the seconds by which the server is ahead of the monotonic clock."""

    def learn(self, at: float, began: float, ended: float) -> None:
        """The server read its clock at some instant between these two of the monotonic clock."""
        least, most = at - ended, at - began
        if least <= self._most and most >= self._least:
            least, most = max(least, self._least), min(most, self._most)
        self._least, self._most = least, most

    def at(self, monotonic: float) -> float | None:
        """The time of the server at an instant of the monotonic clock; None before any answer."""
        ahead = (self._least + self._most) / 2
        return None if math.isnan(ahead) else monotonic + ahead


class _Waits:
    """One query for all sagas that somebody here waits for, repeated while anybody waits."""

    def __init__(self, replica: PostgresReplica) -> None:
        self._replica = replica
        self._waiting: dict[asyncio.Future[bool], tuple[str, int]] = {}
        """Each with the saga and the number of entries that its waiter knows."""
        self._task: asyncio.Task[None] | None = None

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """See ports.ownership.Ownership. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting[waiter] = (saga_id, length)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._watch())
        try:
            async with asyncio.timeout_at(until):
                return await waiter
        except TimeoutError:
            return True
        finally:
            del self._waiting[waiter]

    async def close(self) -> None:
        """End the query; nobody waits any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        while asked := dict(self._waiting):
            try:
                found = await self._replica.lengths(
                    sorted({saga_id for saga_id, _ in asked.values()})
                )
            except Exception as error:
                for waiter in asked:
                    if not waiter.done():
                        waiter.set_exception(error)
            else:
                for waiter, (saga_id, length) in asked.items():
                    known, elsewhere = found.get(saga_id, (length, False))
                    if not waiter.done() and (not elsewhere or known != length):
                        waiter.set_result(elsewhere)
            await asyncio.sleep(LOOK_SECONDS)  # also behind an error: others wait by then


def _now() -> float:
    return time.clock_gettime(_CLOCK)
