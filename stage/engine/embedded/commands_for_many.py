"""Commands about many sagas: a verb that is done to each of a list, and pauses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from stage.core.act_key import ActKey
from stage.core.errors import JournalMismatch
from stage.core.pause import Pause
from stage.core.questions import why_not_compensated
from stage.core.requester import Requester
from stage.core.sweep import Sweep, SweepState, former_key_of, verb_of
from stage.core.sweep_verbs import SweepVerb
from stage.engine.embedded.commands import EmbeddedCommands
from stage.engine.embedded.parts import Parts
from stage.engine.embedded.to_its_end import to_its_end
from stage.engine.saga.acts import sweep_act
from stage.engine.saga.repeats import refuse_kept, refuse_repeat
from stage.ports.engine import ActRepeated, KeyReused, LeftToNewer, NotAllowed, SagaLost
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.wire.replies import CompensateRequest

T = TypeVar("T")


class EmbeddedCommandsForMany(EmbeddedCommands):
    """ports.engine.Commands, whole: sweeps and pauses beside the commands to one saga."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.sweeps_changed: Callable[[], None] = _nobody
        """Called when a sweep was begun or changed here; the engine sets it."""
        self._clean: dict[tuple[int, int], set[str]] = {}
        """The tables that were copied for a sweep that could not be finished yet, by its number and
        the number of sagas that it had erased: they are not copied again for it."""

    async def begin_sweep(
        self, sweep: Sweep, saga_ids: Sequence[str], act_key: ActKey | None = None
    ) -> int:
        """See `ports.engine.Commands`."""

        async def unit(unit: Unit) -> int:
            await refuse_repeat(unit, act_key)
            number = await unit.begin_sweep(sweep, saga_ids)
            act = sweep_act(replace(sweep, number=number), sweep.actor, sweep.reason, sweep.at)
            await unit.keep_act(act)
            if act_key is not None:
                await unit.keep_act_key(act_key, sweep.at, sweep=number)
            return number

        return await to_its_end(self._change_sweeps(unit))

    async def set_sweep(
        self,
        sweep: Sweep,
        state: SweepState,
        *,
        actor: str,
        reason: str,
        act_key: ActKey | None = None,
    ) -> None:
        """See `ports.engine.Commands`."""
        now = self._clock.now()

        async def unit(unit: Unit) -> None:
            await refuse_repeat(unit, act_key)
            await unit.set_sweep(sweep.number, state)
            after = replace(sweep, state=state)
            await unit.keep_act(sweep_act(after, actor, reason, now, before=sweep.state.value))
            if act_key is not None:
                await unit.keep_act_key(act_key, now, sweep=sweep.number)

        await to_its_end(self._change_sweeps(unit))

    async def _change_sweeps(self, unit: Callable[[Unit], Awaitable[T]]) -> T:
        """Run a unit that begins or changes a sweep, and wake the sweeps behind it.

        Also behind one that was refused: it may repeat an order, which is answered as done.
        """
        try:
            return await self._store.transact(unit)
        finally:
            self.sweeps_changed()

    async def act_on(self, sweep: Sweep, saga_id: str) -> str:
        """Do the verb of a sweep to one saga; why it was refused, or nothing."""
        try:
            if await self._store.get(saga_id) is None:
                # To compensate one that was never seen would leave a tombstone.
                return "it is not here: never seen, or dropped for its age"
            verb = verb_of(sweep, saga_id, self._clock.now())
            if sweep.verb is SweepVerb.ERASE:
                self._forget_scrubs(sweep.number)
                await self._erase(saga_id, actor=sweep.actor, reason=sweep.why)
            elif sweep.verb is SweepVerb.PURGE:
                await self._purge(saga_id, actor=sweep.actor, reason=sweep.why)
            elif verb is not None:
                await self._refuse_former(sweep, saga_id)
                await self.operate(saga_id, verb, dry_run=False)
            else:
                return await self._compensate_for(sweep, saga_id)
        except ActRepeated as error:
            return error.kept.refused  # the sweep has acted on it, here or elsewhere
        except (NotAllowed, JournalMismatch, SagaLost, LeftToNewer, KeyReused) as error:
            return str(error)  # the sagas behind it do not wait for it
        return ""

    async def _refuse_former(self, sweep: Sweep, saga_id: str) -> None:
        """Raise ActRepeated where the release before this one has acted on the saga for the sweep.

        A key that is older than the sweep is of another one, which had its number before a restore.
        """
        key = former_key_of(sweep, saga_id)
        kept = await self._store.act_under(key)
        if kept is not None and kept.at >= sweep.at:
            refuse_kept(key, kept)

    async def _compensate_for(self, sweep: Sweep, saga_id: str) -> str:
        """Ask to compensate for a sweep; why that cannot be, as its endpoint answers 409, if so."""
        found = await self.compensate(
            saga_id,
            asked=CompensateRequest(requested_by=f"operator {sweep.actor}", reason=sweep.why),
            requester=Requester.OPERATOR,
            trace=TraceContext(),
            wait_seconds=0.0,
        )
        plan, closed = found.saga.under(self._plan), found.row.closed_at is not None
        return why_not_compensated(plan, found.saga, closed=closed)

    async def finish(self, sweep: Sweep) -> None:
        """A sweep has acted on all of its sagas. Raises Unsettled where it is not done for that.

        Asked again it awaits the scrub that is under way, and begins none behind one that is over.
        """
        if sweep.verb is not SweepVerb.ERASE:
            return
        place = (sweep.number, sweep.done)  # one that goes on has erased more by then
        await self._scrub_once(place, self._clean.setdefault(place, set()))
        self._clean.pop(place, None)

    def _forget_scrubs(self, number: int) -> None:
        """A sweep is about to erase more: a scrub of before, or one under way, is not enough.

        The saga counts as done for it only behind that, if the answer is not lost.
        """
        for place in [each for each in self._scrubs if isinstance(each, tuple)]:
            if place[0] == number:
                del self._scrubs[place]
        for place in [each for each in self._clean if each[0] == number]:
            del self._clean[place]

    async def pause(self, pause: Pause, act_key: ActKey | None = None) -> None:
        """See `ports.engine.Commands`."""
        await self._pauses.put(pause, act_key)

    async def adopt_pauses(self, others: Sequence[Pause]) -> None:
        """See `Pauses.adopt`."""
        await self._pauses.adopt(others)

    async def resume(
        self,
        pause: Pause,
        *,
        actor: str,
        reason: str,
        at: float | None = None,
        act_key: ActKey | None = None,
    ) -> bool:
        """See `ports.engine.Commands`."""
        return await self._pauses.end(pause, actor, reason, at, act_key)


def _nobody() -> None:
    """Nobody runs sweeps."""
