"""The runs in memory and the life of each: open, journal, act, rest, leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

from stage.core import events as e
from stage.core.errors import JournalMismatch, StageError, StaleEpoch, StoreUnavailable
from stage.core.machine import evolve
from stage.core.outcome import FailureKind
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase
from stage.core.steps import StepKind
from stage.engine.embedded.limits import EVICT_AFTER_SECONDS, GIVE_WAY_SECONDS, STORE_RETRY
from stage.engine.embedded.live_saga import InboxItem, LiveSaga, NotLive, settled
from stage.engine.saga.context import Context
from stage.engine.saga.cut_off import CutOff
from stage.engine.saga.interpreter import Interpreter, Outgoing, Transition, end_span, outcome_event
from stage.engine.saga.opening import Opening, StoredTransition
from stage.engine.saga.sender import Sender
from stage.ports.clock import Clock
from stage.ports.engine import Busy, NotAllowed, Snapshot, Unsettled
from stage.ports.observer import Attempt, Observer, TraceContext
from stage.ports.stage import Failed
from stage.ports.store import Store, Unit
from stage.wire.problem import WireError
from stage.wire.text import sendable

T = TypeVar("T")


class LiveSagas:
    """One task a live saga. `draining` lets go of what rests, and waits for no database."""

    def __init__(
        self,
        interpreter: Interpreter,
        opening: Opening,
        sender: Sender,
        store: Store,
        observer: Observer,
        clock: Clock,
    ) -> None:
        self._interpreter = interpreter
        self._plan = interpreter.plan
        self._opening = opening
        self._sender = sender
        self._store = store
        self._observer = observer
        self._clock = clock
        self._runs: dict[str, LiveSaga] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In the order in which they began: a set of tasks has another order in every run."""
        self._concluding: dict[asyncio.Future[None], None] = {}
        """Done when an end that was answered for is written down."""
        self._asking: dict[LiveSaga, None] = {}
        """Those with an offer of which nobody knows yet whether it is taken on."""
        self.draining = False
        self.left: Callable[[LiveSaga], None] = lambda _: None
        """Called with every run that leaves memory."""
        self.crowded: Callable[[], bool] = lambda: False
        """Whether sagas wait for the room that those taken over have."""

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, saga_id: str) -> bool:
        return saga_id in self._runs

    def admit(self, run: LiveSaga, sagas_max: int) -> None:
        """Take on what is offered. Raises Busy when so many sagas run already.

        Those that still ask do not count: else they would bar each other. One unit calls this after
        the other, and again when it is repeated. In the writer's thread the count may be off by
        what comes and goes in the event loop meanwhile.
        """
        running = len(self._runs) - len(self._asking) - len(self._concluding)
        if run in self._asking and running >= sagas_max:
            raise Busy(f"{running} sagas are running, the limit")
        self._asking.pop(run, None)

    @property
    def in_doubt(self) -> int:
        """How many steps of the sagas in memory are in doubt. Any thread may ask."""
        sagas = [run.saga for run in list(self._runs.values()) if run.saga is not None]
        return sum(
            self._in_doubt(name, step) for saga in sagas for name, step in saga.steps.items()
        )

    def _in_doubt(self, name: str, step: StepState) -> bool:
        """In doubt, being looked up, or a call that is repeated because it was."""
        repeated = step.phase is Phase.STARTED and step.doubted
        if repeated and self._plan.step(name).kind is StepKind.CALL:
            return True
        return step.phase in (Phase.IN_DOUBT, Phase.PROBING)

    def get(self, saga_id: str) -> LiveSaga | None:
        """The live run of that saga."""
        return self._runs.get(saga_id)

    def open(self, saga_id: str, offer: tuple[Context, e.Accepted] | None = None) -> LiveSaga:
        """A new run, which has no saga yet."""
        run = LiveSaga(saga_id)
        if offer is not None:
            run.offer = offer
            self._asking[run] = None
        self._runs[saga_id] = run
        return run

    def launch(self, run: LiveSaga, trace: TraceContext | None = None) -> None:
        """Let it live."""
        _ = self._spawn(self._live(run, trace or TraceContext()))

    async def written(self, until: float) -> None:
        """Return when all that was answered for by now is written down, at the latest `until`."""
        for each in list(self._concluding):
            await settled(each, until)

    async def drain(self, seconds: float) -> None:
        """Let what runs come to an end or to a rest, at most that long, then stop it."""
        self.draining = True
        for run in list(self._runs.values()):
            run.rouse()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(
        self, work: Coroutine[Any, Any, None], held: dict[asyncio.Task[None], None] | None = None
    ) -> asyncio.Task[None]:
        """A task that is forgotten when it is done, also where else it is `held`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None

        def forget(done: asyncio.Task[None]) -> None:
            del self._tasks[done]
            if held is not None:
                held.pop(done, None)

        task.add_done_callback(forget)
        return task

    async def _live(self, run: LiveSaga, trace: TraceContext) -> None:
        """The life of a run: open the saga, advance it until it rests, let go of it."""
        outcome = "stopped"
        bound = run.offer[0].trace if run.offer is not None else trace
        self._observer.bind(run.saga_id, bound)
        try:
            transition = await self._first(run, trace)
            if run.context is not None and run.context.trace is not bound:
                self._observer.bind(run.saga_id, run.context.trace)
            if transition is not None:
                outcome = await self._loop(run, transition)
        except StaleEpoch:
            outcome = "taken_over"
        except StoreUnavailable as error:
            self._fail(run, error)
        except (WireError, Busy, NotAllowed) as error:
            self._fail(run, error)
        except JournalMismatch as error:
            self._fail(run, error)
            if not await self._park(run, ParkCause.JOURNAL_MISMATCH, str(error)):
                self._tell_defect(run, "run", error)  # else nobody here would ever hear of it
        except Exception as error:
            self._tell_defect(run, "run", error)
            self._fail(run, error)
            await self._park(run, ParkCause.DEFECT, f"{type(error).__name__}: {error}")
            outcome = "defect"
        finally:
            self._leave(run, outcome)

    async def _first(self, run: LiveSaga, trace: TraceContext) -> Transition | None:
        """Accept the saga, or take it over; None when there is nothing to run."""
        # Where somebody waits for the answer it is theirs to ask again while the database is away.
        asked = run.offer is not None or run.signal is not None
        open_saga = self._store.transact if asked else self._persist
        stored = await open_saga(lambda unit: self._opening.first(unit, run, trace))
        self._asking.pop(run, None)
        if stored is not None:
            self._take(run, stored)
            self._tell(run, stored)
        if not run.opened.done():
            run.opened.set_result(None)
        return stored.transition if stored is not None else None

    async def _loop(self, run: LiveSaga, transition: Transition) -> str:
        """Journal, then act: what is durable is sent, what comes back is journaled."""
        while True:
            for outgoing in transition.outgoing:
                run.in_flight += 1
                assert run.saga is not None
                sending = self._spawn(self._send(run, run.saga, outgoing), run.sends)
                run.sends[sending] = None
            if not run.inbox and run.in_flight == 0 and self._may_leave(run, transition):
                return "rests"
            wait = None
            if transition.rest_until is not None:
                wait = transition.rest_until - self._clock.now()
            await run.wait(wait)
            items = list(run.inbox)
            transition = await self._step(run, items)
            for _ in items:  # not before: who waits for a letter is told when the run is lost
                run.inbox.popleft()

    def _may_leave(self, run: LiveSaga, transition: Transition) -> bool:
        if transition.rest_until is None or self.draining:
            return True
        rest = transition.rest_until - self._clock.now()
        # Else those that wait for one neighbour would keep all the others from being taken over.
        gives_way = run.resumed and rest > GIVE_WAY_SECONDS and self.crowded()
        return (gives_way or rest > EVICT_AFTER_SECONDS) and not run.watched

    def _leave(self, run: LiveSaga, outcome: str) -> None:
        run.over = True
        for sending in list(run.sends):
            sending.cancel()  # whoever opens the saga anew must not run beside it (rule 10)
        self._asking.pop(run, None)
        if self._runs.get(run.saga_id) is run:
            del self._runs[run.saga_id]
        self.left(run)
        if not run.opened.done():
            run.opened.set_exception(Unsettled("the process is stopping"))
        for item in run.inbox:
            if item.durable is not None and not item.durable.done():
                item.durable.set_exception(NotLive())
        run.changed()
        if run.span is not None:
            run.span.end(_outcome_of(run, outcome))

    def _fail(self, run: LiveSaga, error: Exception) -> None:
        if not run.opened.done():
            run.opened.set_exception(error)

    async def _send(self, run: LiveSaga, saga: Saga, outgoing: Outgoing) -> None:
        assert run.context is not None
        try:
            event = await self._sender.send(saga, run.context, outgoing, run.post_durably)
        except NotLive:
            return
        except Exception as error:  # a defect of ours; the attempt may have left
            self._tell_defect(run, "send", error)
            failed = Failed(kind=FailureKind.IN_DOUBT, reason=f"defect: {error!r}")
            event = outcome_event(outgoing.do, failed, self._clock.now())
        finally:
            run.in_flight -= 1
        run.post(event, outgoing.span)

    async def _step(self, run: LiveSaga, items: Sequence[InboxItem]) -> Transition:
        assert run.saga is not None and run.context is not None
        saga, context = run.saga, run.context
        items = self._allowed(saga, items)
        events = [item.event for item in items]
        if run.span is None:  # opened only to look, and now there is something to do
            run.span = self._opening.begin_span(run, saga, context.trace)
        span = run.span

        if events and self._store.exclusive:  # else a stale run would answer (rule 17)
            transition = self._interpreter.conclude(saga, context, events, span)
            if transition is not None:
                await self._conclude(run, transition, items)
                return transition

        async def work(unit: Unit) -> StoredTransition:
            transition = await self._interpreter.advance(unit, saga, context, events, span)
            row = self._opening.row(run, transition, context)
            # A saga that was taken over and has only to wait is not due now any more.
            if transition.events or (run.row is not None and row.due_at != run.row.due_at):
                await unit.save(row, transition.events, epoch=saga.epoch)
            return StoredTransition(context=context, row=row, transition=transition)

        stored = await self._persist(work)
        self._take(run, stored)
        self._tell(run, stored, items)
        return stored.transition

    async def _conclude(
        self, run: LiveSaga, transition: Transition, items: Sequence[InboxItem]
    ) -> None:
        """Answer for a saga that completed, and write it down behind the answer.

        When the process dies in between, the forward is in doubt and repeated under the same key;
        downstream answers as before, and the saga completes as it was told (decision 0011).
        """
        assert run.saga is not None and run.context is not None
        epoch = run.saga.epoch
        row = self._opening.row(run, transition, run.context)
        stored = StoredTransition(context=run.context, row=row, transition=transition)
        self._take(run, stored)

        async def write(unit: Unit) -> None:
            await unit.save(row, transition.events, epoch=epoch)

        written = asyncio.get_running_loop().create_future()
        self._concluding[written] = None
        try:
            await self._persist(write, deferrable=True)
        finally:
            del self._concluding[written]
            written.set_result(None)
        self._tell(run, stored, items)

    def _allowed(self, saga: Saga, items: Sequence[InboxItem]) -> Sequence[InboxItem]:
        """The letters without those verbs that do not fit; who sent these is told why."""
        if not any(isinstance(item.event, e.Verb) for item in items):
            return items
        allowed: list[InboxItem] = []
        for item in items:
            try:
                self._opening.check(saga, item.event)
            except NotAllowed as error:
                if item.durable is not None and not item.durable.done():
                    item.durable.set_exception(error)
                continue
            saga = evolve(self._plan, saga, item.event)
            allowed.append(item)
        return allowed

    def _take(self, run: LiveSaga, stored: StoredTransition) -> None:
        """Go on from what the unit left, and wake who waits for it."""
        run.saga, run.context, run.row = stored.transition.saga, stored.context, stored.row
        if stored.span is not None:
            run.span = stored.span
        if stored.transition.events:
            run.changed()

    def _tell(
        self, run: LiveSaga, stored: StoredTransition, items: Sequence[InboxItem] = ()
    ) -> None:
        """Tell of what has become durable."""
        for span, event in stored.transition.ended:
            end_span(span, event)
        for each in stored.cut_off:
            self._tell_cut_off(stored, each)
        for event in stored.transition.events:
            self._observer.happened(
                run.saga_id,
                self._plan.stage,
                event,
                stored.context.trace,
                accepted_at=stored.row.accepted_at,
            )
        for item in items:
            if item.span is not None:
                end_span(item.span, item.event)
            if item.durable is not None and not item.durable.done():
                item.durable.set_result(None)

    def _tell_defect(self, run: LiveSaga, where: str, error: BaseException) -> None:
        trace = run.context.trace if run.context is not None else TraceContext()
        self._observer.defect(where, run.saga_id, trace, error)

    def _tell_cut_off(self, stored: StoredTransition, each: CutOff) -> None:
        """Report an attempt that the run before could not: its process is gone."""
        saga = stored.transition.saga
        attempt = Attempt(
            saga_id=saga.id,
            stage=self._plan.stage,
            step=each.step or "tell_upstream",
            activity=each.activity,
            number=each.attempt,
            peer=self._plan.step(each.step).peer if each.step else saga.upstream,
            parent=stored.context.trace,
            links=each.links,
        )
        self._observer.cut_off(
            attempt,
            span_id=each.span,
            began=each.began,
            ended=stored.transition.events[0].at,
        )

    async def _persist(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        """Run a unit until it is durable: the database may be away for long (rule 16)."""
        attempt = 0
        while True:
            try:
                return await self._store.transact(work, deferrable=deferrable)
            except StoreUnavailable:
                if self.draining:
                    raise
                attempt += 1
                await self._clock.sleep(STORE_RETRY.backoff_seconds(attempt, "store"))

    async def _park(self, run: LiveSaga, cause: ParkCause, reason: str) -> bool:
        """A saga that cannot be run must not be tried for ever, nor stop the others.

        False when it is over, and so has nothing left to be parked from.
        """
        row = run.row or await self._store.get(run.saga_id)
        if row is None or row.answer_status is not None:
            return False
        reason = sendable(reason)
        if row.parked == reason and row.due_at is None:
            return True  # so it is already, however often its neighbours ask
        now = self._clock.now()
        parked = msgspec.structs.replace(
            row,
            parked=reason,
            parked_cause=cause,
            due_at=None,
            length=row.length + 1,
            updated_at=now,
        )
        event = e.Parked(at=now, cause=cause, reason=reason)
        try:
            await self._store.transact(lambda unit: unit.save(parked, [event], epoch=row.epoch))
        except (StoreUnavailable, StaleEpoch, StageError, ValueError):
            return True  # away, or somebody else wrote: it stays due, and the next scan finds it
        self._observer.happened(
            run.saga_id,
            self._plan.stage,
            event,
            row.trace,
            accepted_at=row.accepted_at,
        )
        return True

    def snapshot(self, run: LiveSaga) -> Snapshot:
        """What is known of the saga of a run that has one."""
        assert run.saga is not None and run.row is not None
        return Snapshot(
            row=run.row,
            saga=run.saga,
            next_at=run.row.due_at if run.in_flight == 0 else None,
            running=run.in_flight > 0,
        )


def _outcome_of(run: LiveSaga, outcome: str) -> str:
    """How a run ended, for its span: the state of its saga, unless the run lost it."""
    if outcome in ("taken_over", "defect") or run.saga is None:
        return outcome
    return "parked" if run.saga.parked else run.saga.state.value
