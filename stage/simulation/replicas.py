"""Several live processes over one database: their leases, and what no two of them may do at once.

Here I8 is checked for replicas: a process sends and writes only for sagas that no live
other one owns, takes none over while its owner lives and has a request under way, and claims none
that rests before its wait is over by the clock that all go by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from stage.core.age import is_due
from stage.core.events import Event
from stage.core.steps import VERSION_MAX
from stage.ports.ownership import Mail, Posted, Share
from stage.simulation.books import Books
from stage.simulation.loop import STILL_SECONDS, Process, VirtualClock, VirtualLoop
from stage.simulation.primary import Primary
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase, MemoryReplica

LEASE_SECONDS = 3.0
"""Shorter than many outages and pauses, so that processes are taken for dead that are not."""
SLACK_SECONDS = 1.0
"""A claim may come so much too early: clocks are slewed."""
STILL_LEASE_SECONDS = 4 * STILL_SECONDS
"""A lease that is renewed while the world is still, when nobody is to be taken for dead."""


class SharedDatabase:
    """The database of one stage with several processes, as the world sees it."""

    def __init__(
        self, stage: str, database: MemoryDatabase, books: Books, loop: VirtualLoop
    ) -> None:
        self.database = database
        self._stage = stage
        self._books = books
        self._loop = loop
        self._clock = VirtualClock(loop)
        self._under_way: Counter[tuple[str, int]] = Counter()
        """Messages under way, by saga and by the registration under which they left."""
        self.ahead = 0.0
        """By how many seconds the clock of the database is wrong."""
        self.primary = Primary(self._serves_older)

    @property
    def time(self) -> float:
        """The time by the clock of the database, which its processes go by."""
        return self._clock.now() + self.ahead

    def replica(self) -> tuple[MemoryStore, MemoryReplica]:
        """The store of one more process, and its registration."""
        store = MemoryStore(
            database=self.database,
            exclusive=False,
            clock=self._clock,
            lease_seconds=LEASE_SECONDS,
        )
        ownership = store.ownership
        assert isinstance(ownership, MemoryReplica)
        return store, ownership

    def _serves_older(self, who: str) -> None:
        self._books.violate("I1", "", f"{who} uses an older state of the database without a word")

    def prolong(self, registration: int) -> None:
        """A lease was renewed: while the world is still, the next time is far away."""
        if self._loop.still:
            self.database.leases[registration] = self._clock.now() + STILL_LEASE_SECONDS

    def _lives(self, registration: int | None) -> bool:
        """Whether a lease is valid, without declaring anybody dead."""
        until = None if registration is None else self.database.leases.get(registration)
        return until is not None and until >= self._clock.now()

    def check_sends(self, who: str, saga: str, registration: int) -> None:
        """A process that was not paused on the way lets a message leave."""
        if not self._lives(registration):
            self._books.violate("I8", saga, f"{who} sends although its lease is over")
        elif self.owned_elsewhere(saga, registration):
            self._books.violate("I8", saga, f"{who} sends for a saga that another process owns")

    def leaves(self, saga: str, registration: int) -> None:
        """A message is under way."""
        self._under_way[saga, registration] += 1

    def ends(self, saga: str, registration: int) -> None:
        """It was answered, or its sender does not wait for it any more."""
        self._under_way[saga, registration] -= 1

    def busy_elsewhere(self, saga: str, registration: int) -> bool:
        """Whether a live other process has a message of that saga under way."""
        return any(
            count and about == saga and other != registration and self._lives(other)
            for (about, other), count in self._under_way.items()
        )

    def owned_elsewhere(self, saga: str, registration: int) -> bool:
        """Whether a live other process owns the saga."""
        owner = self.database.owners.get(saga)
        return owner != registration and self._lives(owner)

    def trespassed(self, who: str, saga: str) -> None:
        """A process wrote what a live other one owns: rule 4 of ports.ownership."""
        self._books.violate("I8", saga, f"{who} wrote a saga that another process owns")

    def check_takes_over(self, who: str, saga: str, registration: int) -> None:
        """A process has taken a saga over."""
        if self.busy_elsewhere(saga, registration):
            self._books.violate(
                "I8", saga, f"{who} took over while the owner lives and has a request under way"
            )

    def resting(self) -> frozenset[str]:
        """Sagas without an owner that are due later, by the clock that all go by."""
        owners, now = self.database.owners, self.time + SLACK_SECONDS
        return frozenset(
            row.id
            for row in self.database.sagas.values()
            if row.id not in owners and row.due_at is not None and not is_due(row.due_at, now)
        )

    def check_claims(self, who: str, resting: frozenset[str], claimed: Sequence[str]) -> None:
        """A process has claimed sagas; `resting` is what was to wait on just before."""
        for saga in claimed:
            if saga in resting:
                self._books.violate("I8", saga, f"{who} claims it before its wait is over")


class ReplicaOwnership:
    """ports.ownership.Ownership of one process, which may be paused, dead or without its disk."""

    def __init__(
        self,
        shared: SharedDatabase,
        replica: MemoryReplica,
        process: Process,
        check_writable: Callable[[], None],
    ) -> None:
        """`check_writable` raises StoreUnavailable while nothing can be written."""
        self._shared = shared
        self._replica = replica
        self._process = process
        self._check_writable = check_writable

    async def _door(self) -> None:
        if self._process.held:
            await self._process.gate()
        self._check_writable()

    @property
    def sure(self) -> bool:
        """See ports.ownership.Ownership."""
        return self._replica.sure

    async def assured(self) -> None:
        """See ports.ownership.Ownership."""
        await self._replica.assured()

    @property
    def time(self) -> float | None:
        """See ports.ownership.Ownership."""
        return self._shared.time

    @property
    def share(self) -> Share:
        """See ports.ownership.Ownership."""
        return self._replica.share

    @property
    def renew_seconds(self) -> float | None:
        """See ports.ownership.Ownership."""
        return self._replica.renew_seconds

    async def renew(self) -> bool:
        """See ports.ownership.Ownership."""
        await self._door()
        alive = await self._replica.renew()
        self._shared.prolong(self._replica.me)
        self._shared.primary.renewed(self._process.name)
        return alive

    async def claim(self, now: float, limit: int, version: int = VERSION_MAX) -> dict[str, int]:
        """See ports.ownership.Ownership."""
        await self._door()
        resting = self._shared.resting()
        claimed = await self._replica.claim(now, limit, version)
        self._shared.check_claims(self._process.name, resting, list(claimed))
        return claimed

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """See ports.ownership.Ownership."""
        await self._door()
        await self._replica.release(sagas)

    async def leave(self) -> None:
        """See ports.ownership.Ownership."""
        await self._door()
        await self._replica.leave()

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """See ports.ownership.Ownership."""
        await self._door()
        return await self._replica.changed(saga_id, length, until)

    async def post(self, saga_id: str, event: Event) -> Posted | None:
        """See ports.ownership.Ownership."""
        await self._door()
        return await self._replica.post(saga_id, event)

    async def unreceived(self, number: int) -> bool:
        """See ports.ownership.Ownership."""
        await self._door()
        return await self._replica.unreceived(number)

    async def mail(self) -> list[Mail]:
        """See ports.ownership.Ownership."""
        await self._door()
        return await self._replica.mail()
