"""The duties of a worker to the others, beside those of its engine: reports, parts of sweeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from stage.core.pause import Pause
from stage.core.sweep import Sweep
from stage.engine.embedded.engine import EmbeddedEngine
from stage.ports.engine import PastRetention, SagaLost
from stage.ports.figures import Figures
from stage.ports.identity import Identity
from stage.ports.peers import PeerStanding
from stage.ports.reconcile import Adopt, Findings, Reconciles
from stage.ports.store import NEWEST, Act

MICROSECONDS: Final = 1_000_000
ACTS_OF_A_SAGA: Final = 20
"""Acts on one saga among which that of a sweep is looked for."""

WriteMetrics = Callable[[str], Awaitable[tuple[bytes, str]]]


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """How one worker stands: what its engine says of the present without a question to a store."""

    ready: bool
    clock_jump: float
    live: int
    in_doubt: int
    identity: Identity
    peers: list[PeerStanding]
    breakers: Mapping[str, bool]
    figures: Figures
    pauses: tuple[Pause, ...]
    """The newest word on each target of a pause that its file has."""


class Duties:
    """The duties of one worker, as the others may call them."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        *,
        breakers: Callable[[], Mapping[str, bool]],
        figures: Callable[[], Figures],
        metrics: WriteMetrics,
        reconcile: Reconciles,
    ) -> None:
        self._engine = engine
        self._breakers = breakers
        self._figures = figures
        self._metrics = metrics
        self._reconcile = reconcile

    async def state(self) -> WorkerState:
        """How it stands now."""
        engine = self._engine
        return WorkerState(
            ready=engine.ready,
            clock_jump=engine.clock_jump,
            live=engine.live,
            in_doubt=engine.in_doubt,
            identity=engine.identity,
            peers=engine.peers(),
            breakers=self._breakers(),
            figures=self._figures(),
            pauses=engine.written_pauses,
        )

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Its own metrics: text and content type."""
        return await self._metrics(accept)

    async def reconcile(
        self, *, since: float | None, without: Mapping[str, str], adopt: Adopt | None
    ) -> Findings:
        """The sagas that neighbours know and its file lacks, of those that belong there."""
        return await self._reconcile(since=since, without=without, adopt=adopt)

    async def holds(self, saga_id: str) -> bool | None:
        """Whether the saga is in its file; None where it may have been dropped for its age.

        Raises SagaLost while the file awaits its release and the saga is not there.
        """
        try:
            return await self._engine.get_saga(saga_id) is not None
        except PastRetention:
            return None

    async def has(self, saga_id: str) -> bool:
        """Whether the saga is in its file, also while that may lack some."""
        try:
            return await self.holds(saga_id) is True
        except SagaLost:
            return False

    async def act_on(self, sweep: Sweep, saga_id: str) -> str:
        """Do the verb of a sweep to one of its sagas, once; why it was refused, or nothing."""
        acts = await self._engine.acts(ACTS_OF_A_SAGA, target=saga_id)
        if any(act.reason == sweep.why and act.at >= sweep.at for act in acts):
            return ""  # the worker that runs the sweep was lost before it had the answer
        return await self._engine.act_on(sweep, saga_id)

    async def finish(self, sweep: Sweep) -> None:
        """See `EmbeddedCommandsForMany.finish`."""
        await self._engine.finish(sweep)

    async def acts_before(self, until: int | None, limit: int, target: str) -> list[Act]:
        """Its acts before an instant in microseconds, the newest first; None for all of them.

        Their numbers are the instants in microseconds: those of two files say nothing together.
        """
        before = NEWEST if until is None else await self._number_at(until, target)
        found = await self._engine.acts(limit, before=before, target=target)
        return [msgspec.structs.replace(act, number=microseconds(act.at)) for act in found]

    async def _number_at(self, until: int, target: str) -> int:
        """The number behind the last act before an instant: acts are numbered as time goes on."""
        newest = await self._engine.acts(1, target=target)
        low, high = 1, (newest[0].number if newest else 0) + 1
        while low < high:
            middle = (low + high + 1) // 2
            found = await self._engine.acts(1, before=middle, target=target)
            if not found or microseconds(found[0].at) < until:
                low = middle
            else:
                high = found[0].number
        return low


def microseconds(at: float) -> int:
    """An instant as a number that JSON keeps exactly."""
    return round(at * MICROSECONDS)
