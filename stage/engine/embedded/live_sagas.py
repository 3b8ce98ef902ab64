"""The sagas in memory and the life of each: open, journal, act, rest, leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec.structs import replace

from stage.core import events as e
from stage.core.errors import JournalMismatch, NewerJournal, StaleEpoch, StoreUnavailable
from stage.core.failure import FailureKind
from stage.core.questions import pends
from stage.core.raised import raised
from stage.core.saga import Saga, StepState
from stage.core.shares import Shares
from stage.core.states import ENDED, EXTERNAL_KINDS, PARKED_IN_DOUBT, ParkCause, Phase
from stage.engine.embedded.inline import HandedOver, await_inline
from stage.engine.embedded.limits import (
    DEFER_SECONDS_MAX,
    EVICT_AFTER_SECONDS,
    GIVE_WAY_SECONDS,
)
from stage.engine.embedded.live_saga import LiveSaga, NotLive
from stage.engine.embedded.live_units import LiveUnits
from stage.engine.saga.attempts import end_event
from stage.engine.saga.fast_path import AnyTransition
from stage.engine.saga.interpreter import Outgoing
from stage.engine.saga.opening import OpenRequest
from stage.engine.saga.sender import Sender
from stage.ports.clock import Clock
from stage.ports.engine import (
    ActRepeated,
    Busy,
    DeadlineOver,
    KeyReused,
    LeftToNewer,
    NotAllowed,
    SagaLost,
    Snapshot,
    Stopping,
    Unsettled,
)
from stage.ports.observer import Observer, TraceContext
from stage.ports.ownership import HeldElsewhere
from stage.ports.stage import Failed

REFUSALS = (
    StoreUnavailable, Busy, NotAllowed, DeadlineOver, SagaLost, Unsettled, HeldElsewhere,
    ActRepeated, KeyReused,
)  # fmt: skip
"""An outcome for the caller that asked, and no defect."""


class LiveSagas:
    """One task a live saga. `draining` lets go of what rests, and waits for no database."""

    def __init__(
        self,
        units: LiveUnits,
        sender: Sender,
        observer: Observer,
        clock: Clock,
        shares: Shares,
        *,
        inline: bool,
    ) -> None:
        """With `inline` an attempt that is alone has no task of its own (inline.py)."""
        self._plan = units.plan
        self._units = units
        self._sender = sender
        self._observer = observer
        self._clock = clock
        self._inline = inline
        self._shares = shares
        self._live: dict[str, LiveSaga] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In the order in which they began: a set of tasks has another order in every run."""
        self._asking: dict[OpenRequest, float] = {}
        """Offers that are neither taken on nor refused yet, and since when they wait, by the event
        loop's clock."""
        self.draining = self._stopped = False
        self.left: Callable[[LiveSaga], None] = lambda _: None
        """Called with every saga that leaves memory."""
        self.rests: Callable[[str, int | None], None] = lambda _id, _length: None
        """Called with the id of a saga that leaves memory and is due later, and the number of its
        entries; without the number for one that is left to a newer release."""
        self.crowded: Callable[[], bool] = lambda: False
        """Whether sagas wait for the room that recovered ones have."""
        self.deposited: Callable[[str, int], None] | None = None
        """Where it is set, only sagas that the scheduler opens are run here. An offer or a request
        is written down, and it is called with the id of the saga and the number of its entries."""

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, saga_id: str) -> bool:
        return saga_id in self._live

    # --- which sagas are live --------------------------------------------------------------------

    def admit(self, request: OpenRequest, sagas_max: int) -> None:
        """Take on what is offered. Raises Busy when so many sagas run already.

        Sagas that are not admitted yet do not count: they would bar each other. Units call this one
        after the other, and again when they are repeated. In the writer's thread the count may be
        off by the sagas that come and go in the event loop meanwhile.
        """
        running = len(self._live) - len(self._asking) - self._units.concluding
        if request in self._asking and request.offer is not None:
            if running >= sagas_max:
                raise Busy(f"{running} sagas are running, the limit")
            caller = self._shares.caller(request.offer.accepted.upstream)
            share = self._shares.most(caller, sagas_max)
            # Only then are they counted: it takes as long as there are sagas.
            if running >= share and (its := self._running_of(caller)) >= share:
                whose = caller or "callers that are not configured"
                raise Busy(f"{its} sagas of {whose} are running, the limit")
        self._asking.pop(request, None)

    def _running_of(self, caller: str) -> int:
        """How many sagas run that this caller started, since this process has."""
        offers = [
            live.request.offer
            for live in list(self._live.values())
            if live.request.offer is not None and live.request not in self._asking
        ]
        return sum(self._shares.caller(offer.accepted.upstream) == caller for offer in offers)

    @property
    def offers(self) -> int:
        """How many offers are neither taken on nor refused."""
        return len(self._asking)

    def offers_wait_seconds(self) -> float:
        """How long the oldest of the offers that are neither taken on nor refused has waited."""
        # The writer's thread takes them out meanwhile.
        with suppress(RuntimeError):
            for since in self._asking.values():
                return asyncio.get_running_loop().time() - since
        return 0.0

    @property
    def in_doubt(self) -> int:
        """How many steps of the sagas in memory are in doubt. May be read from any thread.

        Sagas that are parked for a doubt are left out: the store counts them.
        """
        lives = [live for live in list(self._live.values()) if not live.on_fast_path]
        sagas = [live.saga for live in lives]
        return sum(
            self._in_doubt(saga, name, step)
            for saga in sagas
            if saga is not None and saga.parked_cause not in PARKED_IN_DOUBT
            for name, step in saga.steps.items()
        )

    def _in_doubt(self, saga: Saga, name: str, step: StepState) -> bool:
        """True of a step in doubt, being probed, or repeated because it was in doubt."""
        repeated = step.phase is Phase.STARTED and step.doubted
        if repeated and saga.under(self._plan).step(name).kind in EXTERNAL_KINDS:
            return True
        return step.phase in (Phase.IN_DOUBT, Phase.PROBING) and not pends(step)

    def get(self, saga_id: str) -> LiveSaga | None:
        """The live saga with that id."""
        return self._live.get(saga_id)

    def open(self, request: OpenRequest, *, recovered: bool = False) -> LiveSaga:
        """Open a saga in a task of its own; `LiveSaga.opened` is done once it is there.

        Raises Stopping once the engine has stopped.
        """
        if self._stopped:
            raise Stopping
        request.deposit = self.deposited is not None and not recovered
        live = LiveSaga(request)
        live.recovered = recovered
        if request.offer is not None:
            self._asking[request] = asyncio.get_running_loop().time()
        self._live[request.saga_id] = live
        _ = self._spawn(self._run(live))
        return live

    def lose_all(self) -> None:
        """This replica was declared dead: whatever is live here may be run by another one."""
        for live in list(self._live.values()):
            live.lose()

    async def drain(self, seconds: float) -> None:
        """Let what runs come to an end or to a rest, at most that long, then stop it."""
        self.draining = self._units.stopping = True
        self._sender.drain()
        for live in list(self._live.values()):
            live.rouse()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        await self._defer_callers()
        self._stopped = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _defer_callers(self) -> None:
        """Journal 202 for the callers whose sagas are still under way."""
        now = self._clock.now()
        waited_for = [live for live in self._live.values() if not live.over and _owes_a_word(live)]
        words = [live.post_durably(e.AnswerDeferred(at=now)) for live in waited_for]
        if words:
            await asyncio.wait(words, timeout=DEFER_SECONDS_MAX)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that is forgotten when it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def _forget(self, done: asyncio.Task[None]) -> None:
        del self._tasks[done]
        if not done.cancelled() and (error := done.exception()) is not None:
            self._observer.defect("task", "", TraceContext(), error)

    async def _run(self, live: LiveSaga, resting: AnyTransition | None = None) -> None:
        """Live the life of the saga until it rests, and let go of it.

        It is opened first, unless it goes on from where it was `resting`.
        """
        # Long because each way in which a life ends has its arm, and all of them let go.
        outcome: str | None = "stopped"
        try:
            transition = await self._begin(live) if resting is None else self._go_on(live, resting)
            if transition is not None:
                outcome = await self._loop(live, transition)
            elif live.lost:
                outcome = "taken_over"
        except HandedOver:
            outcome = None
        except StaleEpoch:
            live.lost, outcome = True, "taken_over"
        except REFUSALS as error:
            live.refuse(error)
        except NewerJournal as error:
            live.refuse(LeftToNewer(str(error)))
            outcome = "rests"  # given back, and not parked: a newer release goes on with it
        except JournalMismatch as error:
            live.refuse(error)
            if not await self._units.park(live, ParkCause.JOURNAL_MISMATCH, str(error)):
                self._report_defect(live, "run", error)  # a saga that is over is not parked
        except Exception as error:
            self._report_defect(live, "run", error)
            live.refuse(error)
            await self._units.park(live, ParkCause.DEFECT, raised(error))
            outcome = "defect"
        finally:
            if outcome is not None:
                self._leave(live, outcome)

    async def _begin(self, live: LiveSaga) -> AnyTransition | None:
        """Open the saga; None where nothing of it is to be run here."""
        request = live.request
        bound = request.trace if request.offer is None else request.offer.context.trace
        self._observer.bind(live.saga_id, bound)
        transition = await self._units.open(live)
        self._asking.pop(request, None)
        live.set_open()
        if live.context is not None and live.context.trace is not bound:
            self._observer.bind(live.saga_id, live.context.trace)
        if request.deposit and transition is not None and _is_due(live):
            self._leave_to_scheduler(live)
            return None
        return transition

    def _leave_to_scheduler(self, live: LiveSaga) -> None:
        """Let go of a saga that was only written down; its callers follow it in the store."""
        assert self.deposited is not None and live.row is not None
        live.lost = True
        if _is_newer(live):
            self.rests(live.saga_id, None)  # no scan here finds it, so that it is not given up once
        else:
            self.deposited(live.saga_id, live.row.length)

    async def _loop(self, live: LiveSaga, transition: AnyTransition) -> str:
        """Journal, then act: what is durable is sent, what comes back is journaled.

        A saga that was lost while its unit was under way sends nothing: this process may be sure
        of a new lease by then, and the saga is not its own any more.
        """
        while not live.lost:
            alone = len(transition.outgoing) == 1 and not live.inbox and live.in_flight == 0
            # Where another step is due later, this task is needed to wake up for it.
            if alone and self._inline and transition.rest_until is None:
                outgoing = transition.outgoing[0]
                hand_over = partial(self._hand_over, live, transition)
                attempt = self._attempt(live, outgoing)
                event = await await_inline(live, attempt, hand_over, outgoing.span)
                transition = await self._units.end_attempt(live, event, outgoing.span)
                continue
            self._send_all(live, transition)
            if not live.inbox and live.in_flight == 0 and self._may_leave(live, transition):
                if not _owes_a_word(live):
                    return "rests"
                live.post(e.AnswerDeferred(at=self._clock.now()))
            wait = None
            if transition.rest_until is not None:
                wait = transition.rest_until - self._clock.now()
            if not await live.wait(wait):
                break
            items = list(live.inbox)
            transition = await self._units.advance(live, items)
            for _ in items:  # not before: what is in the inbox of a lost saga is answered
                live.inbox.popleft()
        return "taken_over"

    def _hand_over(self, live: LiveSaga, transition: AnyTransition) -> None:
        """Let another task go on with the saga: its present task stays with the attempt."""
        _ = self._spawn(self._run(live, replace(transition, outgoing=[])))

    def _go_on(self, live: LiveSaga, transition: AnyTransition) -> AnyTransition:
        """Go on with a saga whose task stays with the attempt that it awaits."""
        assert live.context is not None
        self._observer.bind(live.saga_id, live.context.trace)
        return transition

    def _send_all(self, live: LiveSaga, transition: AnyTransition) -> None:
        """Send what goes out, each attempt in a task of its own."""
        for outgoing in transition.outgoing:
            live.in_flight += 1
            sending = self._spawn(self._send(live, outgoing))
            live.sends[sending] = None
            sending.add_done_callback(live.sends.pop)

    def _may_leave(self, live: LiveSaga, transition: AnyTransition) -> bool:
        if transition.rest_until is None or self.draining:
            return True
        rest = transition.rest_until - self._clock.now()
        # Sagas that wait for one neighbour would otherwise keep all the others from recovery.
        gives_way = live.recovered and rest > GIVE_WAY_SECONDS and self.crowded()
        return (gives_way or rest > EVICT_AFTER_SECONDS) and not live.watched

    def _leave(self, live: LiveSaga, outcome: str) -> None:
        live.over = True
        live.stop_sending()
        self._asking.pop(live.request, None)
        if self._live.get(live.saga_id) is live:
            del self._live[live.saga_id]
        if outcome == "rests":
            self._units.rested(live)
        self.left(live)
        if not live.is_open:
            taken = HeldElsewhere(f"saga {live.saga_id} was taken over")
            live.refuse(taken if live.lost else Stopping())
        for item in live.inbox:
            if item.durable is not None and not item.durable.done():
                item.durable.set_exception(NotLive())
        live.changed()
        if live.span is not None:
            live.span.end(_outcome_of(live, outcome))
        newer = _is_newer(live)
        if not live.lost and (newer or _is_due(live)):
            self.rests(live.saga_id, None if newer or live.row is None else live.row.length)

    async def _send(self, live: LiveSaga, outgoing: Outgoing) -> None:
        try:
            event = await self._attempt(live, outgoing)
        finally:
            live.in_flight -= 1
        if event is not None:
            live.post(event, outgoing.span)

    async def _attempt(self, live: LiveSaga, outgoing: Outgoing) -> e.Event | None:
        """The end of the attempt; None when the saga left memory before."""
        assert live.transition is not None and live.context is not None
        terms = live.transition.terms
        try:
            return await self._sender.send(terms, live.context, outgoing, live.post_durably)
        except NotLive:
            return None
        except (asyncio.CancelledError, GeneratorExit, SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # a defect of ours; the attempt may have left
            self._report_defect(live, "send", error)
            failed = Failed(kind=FailureKind.IN_DOUBT, reason=f"defect: {raised(error)}")
            return end_event(outgoing.do, failed, self._clock.now())

    def _report_defect(self, live: LiveSaga, where: str, error: BaseException) -> None:
        trace = live.context.trace if live.context is not None else TraceContext()
        self._observer.defect(where, live.saga_id, trace, error)


def snapshot(live: LiveSaga) -> Snapshot:
    """A live saga that is open, as it stands in memory."""
    assert live.saga is not None and live.row is not None
    return Snapshot(
        row=live.row,
        saga=live.saga,
        next_at=live.row.due_at if live.in_flight == 0 else None,
        running=live.in_flight > 0,
        readable=live.row.closed_at is None,
    )


def _is_due(live: LiveSaga) -> bool:
    return live.row is not None and live.row.due_at is not None


def _is_newer(live: LiveSaga) -> bool:
    """Whether it is left to a newer release: no scan here finds it again."""
    left = isinstance(live.refusal, LeftToNewer)
    return left or (live.transition is not None and live.transition.plan.newer)


def _owes_a_word(live: LiveSaga) -> bool:
    """True while a caller waits that will be answered 202, which is not journaled yet.

    A process that stops journals it once for all such callers: each would open the saga anew.
    """
    if not live.watched or live.row is None or live.row.state in ENDED:
        return False
    if live.row.closed_at is not None:
        return False  # given up: they are answered from its row
    return live.saga is not None and not live.saga.deferred


def _outcome_of(live: LiveSaga, outcome: str) -> str:
    """How the life of a saga here ended, for its span: its state, unless it was lost."""
    if outcome in ("taken_over", "defect") or live.row is None:
        return outcome
    return "parked" if live.row.parked else live.row.state.value
