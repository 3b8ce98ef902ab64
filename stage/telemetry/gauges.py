"""Present states as numbers: read when they are asked for, never counted along."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import msgspec

from stage.core.errors import StoreUnavailable
from stage.core.pause import INTAKE, Pause
from stage.core.states import ParkCause, SagaState
from stage.ports.certificates import FileState
from stage.ports.clock import Clock
from stage.ports.figures import Places
from stage.ports.store import Approvals, Backlog
from stage.telemetry import names
from stage.telemetry.metrics import Labels

BOTH: Final = "both"
"""The label of a pause of both directions."""
REFRESH_SECONDS: Final = 15.0
BEFORE_SECONDS_MAX: Final = 3.0
"""A caller waits so long for a query that began before it; then it shares that one."""
"""Time between two queries of the database, for readers that cannot wait for one."""


class Running(Protocol):
    """The part of the engine that is read here."""

    @property
    def ready(self) -> bool:
        """See `ports.engine.Engine`."""
        ...

    @property
    def draining(self) -> bool:
        """See `ports.engine.Engine`."""
        ...

    @property
    def clock_jump(self) -> float:
        """See `ports.engine.Engine`."""
        ...

    @property
    def live(self) -> int:
        """See `ports.engine.Engine`."""
        ...

    @property
    def in_doubt(self) -> int:
        """See `ports.engine.Engine`."""
        ...

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """See `ports.engine.Engine`."""
        ...

    async def count(self) -> dict[SagaState, int]:
        """See `ports.engine.Engine`."""
        ...

    async def backlog(self) -> Backlog:
        """See `ports.engine.Engine`."""
        ...


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where the gauges that are not the engine's are read from."""

    queued: Callable[[], int]
    """How many units wait for the writer."""
    breakers: Callable[[], Mapping[str, bool]]
    """Every peer that was asked, and whether it is left alone now."""
    speaks: Callable[[], bool] = lambda: True
    """Whether this process reports what is the database's, once for all replicas."""
    files: Callable[[], Iterable[FileState]] = tuple
    """The files of certificates and credentials in use."""
    places: Callable[[], Iterable[Places]] = tuple
    """The limits of this process, and how much of each is taken."""


class Gauges:
    """The gauges of `names.METRICS`. Gauges read from the database are as of the last `refresh`."""

    def __init__(self, engine: Running, clock: Clock, sources: Sources) -> None:
        self._engine = engine
        self._clock = clock
        self.sources = sources
        self._counts: dict[SagaState, int] | None = None
        self._backlog: Backlog | None = None
        self._stale = False
        self._query: asyncio.Task[None] | None = None
        self._began = False

    async def refresh(self) -> None:
        """Query the database, where this process reports it.

        While it is away the gauges from it keep their values. Callers that come at the same time
        share one query, for it counts every saga there ever was. None shares a query that began
        before it came, unless that one is slow: such a query may lack the caller's last write.
        """
        query = self._query
        if query is None or query.done():
            query = None
        elif self._began:
            await asyncio.wait([query], timeout=BEFORE_SECONDS_MAX)
            if query.done():
                query = None if self._query is query else self._query
        if query is None:
            self._began = False
            query = self._query = asyncio.get_running_loop().create_task(self._read_database())
        await asyncio.shield(query)

    async def keep_fresh(self, defect: Callable[[Exception], None]) -> None:
        """Refresh periodically, until cancelled. It goes on after any error, and reports it."""
        while True:
            try:
                await self.refresh()
            except Exception as error:
                defect(error)
            await asyncio.sleep(REFRESH_SECONDS)

    # Long because it is one table.
    def read(self, name: str) -> dict[Labels, float]:
        """The values of one gauge by its labels."""
        match name:
            case names.M_SAGAS:
                counts = self._counts or {}
                return {(state.value,): count for state, count in counts.items()}
            case names.M_BREAKER:
                return {(peer,): float(broken) for peer, broken in self.sources.breakers().items()}
            case names.M_PAUSED:
                held: dict[Labels, float] = {
                    (each.target, _direction(each)): 1.0 for each in self._engine.pauses
                }
                return {(INTAKE, BOTH): 0.0, **held}
            case names.M_STALE:
                return {(): float(self._stale)}
            case names.M_PARKED:
                backlog = self._backlog  # another thread may read
                return {} if backlog is None else _by_cause(backlog)
            case names.M_APPROVALS | names.M_OLDEST_APPROVAL | names.M_APPROVAL_EXPIRY:
                backlog = self._backlog
                found = () if backlog is None else backlog.approvals
                return _of_approvals(name, found, self._clock.now())
            case names.M_NEWER | names.M_LOST | names.M_OLDEST | names.M_LAG | names.M_COMPENSATION:
                backlog = self._backlog  # another thread may read
                return {} if backlog is None else {(): self._of_backlog(name, backlog)}
            case names.M_RUNS:
                return {(): self._engine.live}
            case names.M_IN_DOUBT:
                backlog = self._backlog
                if not self.sources.speaks():
                    return {(): self._engine.in_doubt}
                # Without the database a parked doubt would seem to be settled.
                if backlog is None:
                    return {}
                return {(): self._engine.in_doubt + backlog.parked_in_doubt}
            case names.M_CLOCK_JUMP:
                return {(): self._engine.clock_jump}
            case names.M_CERTIFICATE_EXPIRY:
                now = self._clock.now()
                ends = ((found.place, found.expires_at) for found in self.sources.files())
                return {(place,): end - now for place, end in ends if end is not None}
            case names.M_FILES_REFUSED:
                return {(found.place,): float(found.refused) for found in self.sources.files()}
            case names.M_LIMIT:
                return {(place.what,): place.limit for place in self.sources.places()}
            case names.M_IN_USE:
                return {(place.what,): place.in_use for place in self.sources.places()}
            case names.M_DATABASE_SIZE:
                backlog = self._backlog
                sizes = {} if backlog is None else backlog.sizes
                return {(part,): size for part, size in sizes.items()}
            case names.M_READY:
                return {(): float(self._engine.ready)}
            case names.M_DRAINING:
                return {(): float(self._engine.draining)}
            case names.M_QUEUE:
                return {(): self.sources.queued()}
        raise KeyError(name)

    async def _read_database(self) -> None:
        self._began = True
        if not self.sources.speaks():  # another replica counts them, and sums have to be right
            self._counts, self._backlog, self._stale = None, None, False
            return
        try:
            self._counts = await self._engine.count()
            self._backlog = await self._engine.backlog()
            self._stale = False
        except Exception as error:
            self._stale = True  # the last known values stay, or alerts would resolve themselves
            if not isinstance(error, StoreUnavailable):
                raise

    def _of_backlog(self, name: str, backlog: Backlog) -> float:
        if name == names.M_NEWER:
            return backlog.newer
        if name == names.M_LOST:
            return backlog.lost
        since = {
            names.M_OLDEST: backlog.oldest_accepted_at,
            names.M_LAG: backlog.longest_due_at,
            names.M_COMPENSATION: backlog.oldest_compensation_at,
        }[name]
        return _age(since, self._clock.now())


def _direction(pause: Pause) -> str:
    return BOTH if pause.way is None else pause.way.value


def _by_cause(backlog: Backlog) -> dict[Labels, float]:
    """Every cause, with 0 where no saga waits for it: a series that ends resolves no alert."""
    return {(cause.value,): backlog.parked.get(cause, 0) for cause in ParkCause}


def _of_approvals(name: str, found: Iterable[Approvals], now: float) -> dict[Labels, float]:
    """By step. An approval that nobody is asked for has no end, and a count and an age of 0."""
    if name == names.M_APPROVALS:
        return {(each.step,): each.sagas for each in found}
    if name == names.M_OLDEST_APPROVAL:
        return {(each.step,): _age(each.oldest_asked_at, now) for each in found}
    ends = ((each.step, each.first_ends_at) for each in found)
    return {(step,): end - now for step, end in ends if end is not None}


def _age(since: float | None, now: float) -> float:
    return 0.0 if since is None else max(0.0, now - since)
