"""The engine within the process: one task a live saga, runs that belong to no request.

A run takes what is in its inbox, advances the saga in one unit of the store, and sends what came
out of it; how that ended comes back into the inbox. Only one unit a saga is under way at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from stage.core import events as e
from stage.core.errors import JournalMismatch, StageError, StaleEpoch, StoreUnavailable
from stage.core.machine import evolve, past_pivot
from stage.core.outcome import FailureKind
from stage.core.retry import RetryPolicy
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import Plan
from stage.core.verbs import refuse_verb
from stage.engine.clock import SystemClock
from stage.engine.context import Context, bare_saga, context_of, row_of
from stage.engine.cut_off import CutOff, cut_off
from stage.engine.interpreter import Advanced, Interpreter, Outgoing, end_span, outcome_event
from stage.engine.run import Letter, Run, RunOver, settled
from stage.engine.sender import Sender
from stage.ports.clock import Clock
from stage.ports.engine import Busy, NotAllowed, Reply, Snapshot, Unsettled
from stage.ports.links import Links
from stage.ports.observer import Observer, Span, TraceContext
from stage.ports.stage import Failed, Participant
from stage.ports.store import Entry, Filter, SagaRow, Store, Unit
from stage.wire.envelope import Envelope, encode_envelope, fingerprint
from stage.wire.problem import WireError

STORE_RETRY = RetryPolicy(attempts_max=None, backoff_seconds_min=0.05, backoff_seconds_max=2.0)
RECOVERY_SCAN_SECONDS = 1.0
CLOSE_SAGAS_MAX = 100
"""Sagas closed in one unit, so that the writer is never held for long."""
TIDY_SECONDS_MIN = 0.05
TIDY_SECONDS_MAX = 10.0
RECOVERY_SHARE = 0.5
"""Of the sagas that run at the same time: as many may be taken over, the rest is for new ones."""
DUE_IDS_MAX = 1_000
RUNS_PER_SAGA_MAX = 4
OPEN_SECONDS_MAX = 5.0
"""How much longer than they asked for callers wait for the database."""
RECOVERY_IDS_MAX = 100_000
UNDONE = frozenset({SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE})
EVICT_AFTER_SECONDS = 5.0
"""A run that rests longer than this leaves memory; the scan brings it back when it is due."""


T = TypeVar("T")


class EngineLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much the engine takes on. `sagas_max` bounds new sagas, never compensation."""

    sagas_max: int = 1_000
    compensation_reserve: float = 0.1
    """The share of a budget that is kept back for compensation."""
    compensation_window_seconds: float = 7 * 86_400.0


class EmbeddedEngine:
    """Runs sagas as tasks of this event loop. `start`, then use, then `drain`."""

    def __init__(
        self,
        participant: Participant,
        store: Store,
        links: Links,
        observer: Observer,
        *,
        clock: Clock | None = None,
        limits: EngineLimits | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._participant = participant
        self._plan = participant.plan
        self._store = store
        self._links = links
        self._observer = observer
        self._limits = limits or EngineLimits()
        self._interpreter = Interpreter(participant, observer, self._clock)
        self._sender = Sender(self._interpreter, links, self._clock)
        self._runs: dict[str, Run] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        """In the order in which they began: a set of tasks has another order in every run."""
        self._rounds: list[asyncio.Task[None]] = []
        self._recovered = False
        self._backlog: deque[str] = deque()
        """Sagas to take over as soon as there is room."""
        self._resumed = 0
        """Runs in memory that nobody asked for: those taken over."""
        self._leaving = False
        self._draining = False

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over every unfinished saga, then serve; later ones are picked up when due."""
        self._backlog.extend(await self._store.due(float("inf"), RECOVERY_IDS_MAX))
        self._recovered = True
        self._pump()
        loop = asyncio.get_running_loop()
        self._rounds = [loop.create_task(self._scan()), loop.create_task(self._tidy())]

    def leave_rotation(self) -> None:
        """See `ports.engine.Engine`."""
        self._leaving = True

    async def drain(self, seconds: float) -> None:
        """Let what runs come to an end or to a rest, at most that long, then stop.

        What is still in flight then is in doubt, and taken up by the next start.
        """
        self._leaving = self._draining = True
        for each in self._rounds:
            each.cancel()
        for run in list(self._runs.values()):
            run._wake()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """See `ports.engine.Engine`."""
        return self._recovered and not self._leaving and self._store.available

    @property
    def live(self) -> int:
        """How many sagas are in memory."""
        return len(self._runs)

    # --- the edge --------------------------------------------------------------------------------

    async def accept(
        self,
        envelope: Envelope,
        *,
        trace: TraceContext,
        deadline: float | None,
        respond_async: bool,
        wait_seconds: float,
    ) -> Reply | None:
        """See `ports.engine.Engine`."""
        until = asyncio.get_running_loop().time() + wait_seconds
        print_ = fingerprint(envelope)
        while True:
            run = self._runs.get(envelope.saga_id)
            first = run is None
            if run is None:
                self._shed()
                offer = self._offer(envelope, print_, trace, deadline, respond_async)
                run = self._open(envelope.saga_id)
                run.offer = offer
                self._launch(run)
            await self._opened(run, until)
            if run.context is None:
                continue  # it was only looked at in vain, and is gone by now
            if run.context.fingerprint and run.context.fingerprint != print_:
                raise WireError(
                    422,
                    "Saga id reused with another payload",
                    f"saga {envelope.saga_id} was accepted with other data",
                    hint="use a new saga id for a new saga; a retry sends the same data",
                )
            replayed = run.replayed or (not first and _answerable(run))
            if respond_async and not _answerable(run):
                until = 0.0  # join a saga that runs already: deferred like any other
            row = await self._answer(run, until)
            if row is None or row.answer_status is None:
                return None
            return Reply(
                status=row.answer_status,
                body=row.answer_body,
                replayed=replayed,
                traceparent=row.traceparent,
            )

    async def compensate(
        self,
        saga_id: str,
        *,
        requested_by: str,
        reason: str,
        trace: TraceContext,
        wait_seconds: float,
    ) -> Snapshot:
        """See `ports.engine.Engine`."""
        until = asyncio.get_running_loop().time() + wait_seconds
        now = self._clock.now()
        request = e.CompensationRequested(at=now, requested_by=requested_by, reason=reason)
        while True:
            run = self._runs.get(saga_id)
            if run is None:
                run = self._open(saga_id)
                run.signal = request
                self._launch(run, trace)
                await self._opened(run, until)
                break
            await self._opened(run, until)
            if run.over or run.saga is None:
                continue
            if run.saga.state not in UNDONE and run.saga.requested_by != requested_by:
                try:
                    await self._durably(run, request, until)
                except RunOver:
                    continue
                if run.span is not None:
                    run.span.link(trace.traceparent)
            break
        if not _decided(self._plan, run):
            await run.watch(until, lambda run: _decided(self._plan, run))
        return self._snapshot(run)

    async def operate(self, saga_id: str, verb: e.Verb, *, dry_run: bool) -> Snapshot | None:
        """See `ports.engine.Engine`."""
        if dry_run:
            now = await self.look(saga_id)
            if now is None:
                return None
            self._check(now.saga, verb)
            return msgspec.structs.replace(now, saga=evolve(self._plan, now.saga, verb))
        soon = asyncio.get_running_loop().time()
        while True:
            run = self._runs.get(saga_id)
            if run is None:
                run = self._open(saga_id)
                run.signal = verb
                self._launch(run)
                await self._opened(run, soon)
                return self._snapshot(run) if run.saga is not None else None
            await self._opened(run, soon)
            with suppress(RunOver):
                await self._durably(run, verb, soon)
                return self._snapshot(run)

    async def look(self, saga_id: str, wait_seconds: float = 0.0) -> Snapshot | None:
        """See `ports.engine.Engine`."""
        run = self._runs.get(saga_id)
        if run is not None and wait_seconds > 0 and not run.over:
            await run.watch(asyncio.get_running_loop().time() + wait_seconds, lambda _: True)
        if run is not None and run.saga is not None and run.row is not None:
            return self._snapshot(run)
        row = await self._store.get(saga_id)
        if row is None:
            return None
        if row.closed_at is not None:
            return Snapshot(row=row, saga=bare_saga(row))
        try:
            saga = self._interpreter.fold(saga_id, await self._store.entries(saga_id))
        except JournalMismatch:
            saga = bare_saga(row)  # what another version of the stage left behind
        return Snapshot(row=row, saga=saga, next_at=row.due_at)

    async def journal(self, saga_id: str) -> list[Entry]:
        """See `ports.engine.Engine`."""
        return await self._store.entries(saga_id)

    async def page(self, which: Filter) -> list[SagaRow]:
        """See `ports.engine.Engine`."""
        return await self._store.page(which)

    async def count(self) -> dict[SagaState, int]:
        """See `ports.engine.Engine`."""
        return await self._store.count()

    # --- runs ------------------------------------------------------------------------------------

    async def _opened(self, run: Run, until: float) -> None:
        """Return when the run has its saga. Raises Unsettled when the database takes too long."""
        await _within(run.opened, until)

    async def _durably(self, run: Run, event: e.Event, until: float) -> None:
        """Journal an event for somebody who waits. Raises Unsettled, as `_opened` does."""
        await _within(run.post_durably(event), until)

    def _shed(self) -> None:
        """Refuse before anything is looked up, when even looking up would be too much."""
        if len(self._runs) >= RUNS_PER_SAGA_MAX * self._limits.sagas_max:
            raise Busy(f"{len(self._runs)} sagas are being looked at, the limit")

    def _admit(self) -> None:
        """Refuse a saga never seen; one that was seen is answered whatever the load."""
        if self._draining:
            raise Busy("draining: this process is about to stop", retry_after=2.0)
        if not self._recovered:
            raise Busy("starting: unfinished sagas are being taken over")
        if len(self._runs) > self._limits.sagas_max:
            raise Busy(f"{len(self._runs) - 1} sagas are running, the limit")

    def _offer(
        self,
        envelope: Envelope,
        print_: str,
        trace: TraceContext,
        deadline: float | None,
        respond_async: bool,
    ) -> tuple[Context, e.Accepted]:
        now = self._clock.now()
        if deadline is not None and deadline > now:
            deadline = now + (deadline - now) * (1.0 - self._limits.compensation_reserve)
        self._participant.check(envelope.data)
        context = Context(
            envelope=envelope,
            envelope_bytes=encode_envelope(envelope),
            fingerprint=print_,
            trace=trace,
        )
        upstream = envelope.trail[-1].stage if envelope.trail else ""
        accepted = e.Accepted(
            at=now,
            deadline=deadline,
            upstream=upstream,
            deferred=respond_async,
        )
        return context, accepted

    async def _answer(self, run: Run, until: float) -> SagaRow | None:
        """The row once it holds an answer; None when the caller is to be told 202.

        That is journaled before it is said, so the end of the saga knows whether the caller
        still waits for it or has to be told.
        """
        loop = asyncio.get_running_loop()
        while not _answerable(run):
            assert run.saga is not None
            if loop.time() < until and not run.saga.parked and not run.over:
                await run.watch(until, _worth_saying)
            elif run.over or run.saga.deferred:
                return None
            else:
                with suppress(RunOver):
                    await self._durably(run, e.AnswerDeferred(at=self._clock.now()), until)
        return run.row

    def _open(self, saga_id: str) -> Run:
        run = Run(saga_id)
        self._runs[saga_id] = run
        return run

    def _pump(self) -> None:
        """Take over what is waiting for it, as far as there is room beside new sagas."""
        room = max(1, int(self._limits.sagas_max * RECOVERY_SHARE))
        while self._backlog and self._resumed < room and not self._draining:
            saga_id = self._backlog.popleft()
            if saga_id not in self._runs:
                run = self._open(saga_id)
                run.resumed = True
                self._resumed += 1
                self._launch(run)

    def _launch(self, run: Run, trace: TraceContext | None = None) -> None:
        _ = self._spawn(self._live(run, trace or TraceContext()))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)
        return task

    async def _live(self, run: Run, trace: TraceContext) -> None:
        """The life of a run: open the saga, advance it until it rests, let go of it."""
        outcome = "stopped"
        self._observer.bind(run.saga_id, run.offer[0].trace if run.offer is not None else trace)
        try:
            advanced = await self._first(run, trace)
            if run.context is not None:
                self._observer.bind(run.saga_id, run.context.trace)
            if advanced is not None:
                outcome = await self._loop(run, advanced)
        except StaleEpoch:
            outcome = "taken_over"
        except StoreUnavailable as error:
            self._fail(run, error)
        except (WireError, Busy, NotAllowed) as error:
            self._fail(run, error)
        except JournalMismatch as error:
            self._fail(run, error)
            await self._park(run, str(error))
        except Exception as error:
            self._tell_defect(run, "run", error)
            self._fail(run, error)
            await self._park(run, f"{type(error).__name__}: {error}")
            outcome = "defect"
        finally:
            self._leave(run, outcome)

    def _fail(self, run: Run, error: Exception) -> None:
        if not run.opened.done():
            run.opened.set_exception(error)

    def _leave(self, run: Run, outcome: str) -> None:
        run.over = True
        for sending in list(run.sends):
            sending.cancel()  # whoever opens the saga anew must not run beside it (rule 10)
        if self._runs.get(run.saga_id) is run:
            del self._runs[run.saga_id]
        if run.resumed:
            self._resumed -= 1
            self._pump()
        if not run.opened.done():
            run.opened.set_exception(Unsettled("the process is stopping"))
        for letter in run.inbox:
            if letter.durable is not None and not letter.durable.done():
                letter.durable.set_exception(RunOver())
        run.changed()
        if run.span is not None:
            run.span.end(_outcome_of(run, outcome))

    async def _first(self, run: Run, trace: TraceContext) -> Advanced | None:
        """Accept the saga, or take it over; None when there is nothing to run."""
        # Where somebody waits for the answer it is theirs to ask again while the database is away.
        asked = run.offer is not None or run.signal is not None
        open_saga = self._store.transact if asked else self._persist
        adopted = await open_saga(lambda unit: self._take_over(unit, run, trace))
        if adopted is not None:
            self._adopt(run, adopted)
        if not run.opened.done():
            run.opened.set_result(None)
        return adopted.advanced if adopted is not None else None

    async def _loop(self, run: Run, advanced: Advanced) -> str:
        """Journal, then act: what is durable is sent, what comes back is journaled."""
        while True:
            for outgoing in advanced.outgoing:
                run.in_flight += 1
                assert run.saga is not None
                sending = self._spawn(self._send(run, run.saga, outgoing))
                run.sends[sending] = None
                sending.add_done_callback(run.sends.pop)
            if not run.inbox and run.in_flight == 0 and self._may_leave(run, advanced):
                return "rests"
            wait = None
            if advanced.rest_until is not None:
                wait = advanced.rest_until - self._clock.now()
            await run.wait(wait)
            letters = list(run.inbox)
            advanced = await self._step(run, letters)
            for _ in letters:  # not before: who waits for a letter is told when the run is lost
                run.inbox.popleft()

    def _may_leave(self, run: Run, advanced: Advanced) -> bool:
        if advanced.rest_until is None or self._draining:
            return True
        far = advanced.rest_until - self._clock.now() > EVICT_AFTER_SECONDS
        return far and not run.watched

    async def _send(self, run: Run, saga: Saga, outgoing: Outgoing) -> None:
        assert run.context is not None
        try:
            event = await self._sender.send(saga, run.context, outgoing, run.post_durably)
        except RunOver:
            return
        except Exception as error:  # a defect of ours; the attempt may have left
            self._tell_defect(run, "send", error)
            failed = Failed(kind=FailureKind.IN_DOUBT, reason=f"defect: {error!r}")
            event = outcome_event(outgoing.do, failed, self._clock.now())
        finally:
            run.in_flight -= 1
        run.post(event, outgoing.span)

    async def _step(self, run: Run, letters: Sequence[Letter]) -> Advanced:
        assert run.saga is not None and run.context is not None
        saga, context = run.saga, run.context
        letters = self._allowed(saga, letters)
        events = [letter.event for letter in letters]
        trace = run.span.context if run.span is not None else context.trace

        async def work(unit: Unit) -> _Adopted:
            advanced = await self._interpreter.advance(unit, saga, context, events, trace)
            row = self._row(run, advanced, context)
            # A saga that was taken over and has only to wait is not due now any more.
            if advanced.events or (run.row is not None and row.due_at != run.row.due_at):
                await unit.save(row, advanced.events, epoch=saga.epoch)
            return _Adopted(context=context, row=row, advanced=advanced)

        adopted = await self._persist(work)
        self._adopt(run, adopted)
        for letter in letters:
            if letter.span is not None:
                end_span(letter.span, letter.event)
            if letter.durable is not None and not letter.durable.done():
                letter.durable.set_result(None)
        return adopted.advanced

    def _check(self, saga: Saga, event: e.Event) -> None:
        """Raise NotAllowed for a verb that does not fit the saga as it stands."""
        if isinstance(event, e.Verb):
            reason = refuse_verb(self._plan, saga, event)
            if reason is not None:
                raise NotAllowed(reason)

    def _allowed(self, saga: Saga, letters: Sequence[Letter]) -> Sequence[Letter]:
        """The letters without those verbs that do not fit; who sent these is told why."""
        if not any(isinstance(letter.event, e.Verb) for letter in letters):
            return letters
        allowed: list[Letter] = []
        for letter in letters:
            try:
                self._check(saga, letter.event)
            except NotAllowed as error:
                if letter.durable is not None and not letter.durable.done():
                    letter.durable.set_exception(error)
                continue
            saga = evolve(self._plan, saga, letter.event)
            allowed.append(letter)
        return allowed

    async def _take_over(self, unit: Unit, run: Run, trace: TraceContext) -> _Adopted | None:
        """The first unit of a run: accept, bury, or load and claim with a new epoch."""
        row = await unit.load(run.saga_id)
        if row is None:
            return await self._begin(unit, run, trace)
        context = context_of(row)
        self._observer.bind(run.saga_id, context.trace)  # for the functions of this unit
        if row.closed_at is not None:
            return self._look_only(run, row, context, bare_saga(row))
        entries = await unit.journal(run.saga_id)
        saga = self._interpreter.fold(run.saga_id, entries)
        now = self._clock.now()
        claim: list[e.Event] = []
        if isinstance(run.signal, e.CompensationRequested):
            if saga.state not in UNDONE and not saga.forgotten:
                claim.append(run.signal)
        elif run.signal is not None:
            claim.append(run.signal)
        if not claim and (saga.ended or saga.parked) and row.due_at is None:
            return self._look_only(run, row, context, saga)
        at = min([now, *(event.at for event in claim)])
        taken_over = e.Recovered(at=at, epoch=row.epoch + 1)
        for verb in claim:
            self._check(evolve(self._plan, saga, taken_over), verb)
        lost = cut_off(entries)
        span = self._begin_span(run, saga, context.trace, asked=trace, lost=lost)
        if saga.recoveries or not claim:
            # The claim is durable before anything is run, so that a saga which takes the process
            # down with it is seen to do so (rule 15).
            advanced = self._interpreter.note(saga, [taken_over, *claim], now)
        else:
            claim.insert(0, taken_over)
            advanced = await self._interpreter.advance(unit, saga, context, claim, span.context)
        fresh = self._row(run, advanced, context)
        await unit.save(fresh, advanced.events, epoch=row.epoch)
        return _Adopted(context=context, row=fresh, advanced=advanced, span=span, cut_off=lost)

    def _look_only(self, run: Run, row: SagaRow, context: Context, saga: Saga) -> _Adopted:
        """Nothing is to be run: the saga answers from what is stored."""
        if isinstance(run.signal, e.Verb):
            self._check(saga, run.signal)
        run.replayed = True
        advanced = Advanced(saga=saga, events=[], outgoing=[], rest_until=None)
        return _Adopted(context=context, row=row, advanced=advanced)

    async def _begin(self, unit: Unit, run: Run, trace: TraceContext) -> _Adopted | None:
        """A saga never seen: accept what is offered, or bury what was to be compensated."""
        saga = Saga(id=run.saga_id)
        first: e.Event
        if run.offer is not None:
            self._admit()
            context, first = run.offer
            # Only of a saga never seen may it be said that nothing was executed.
            if first.deadline is not None and first.deadline <= first.at:
                raise WireError(
                    504,
                    "Deadline over",
                    f"the deadline of saga {run.saga_id} was over on arrival",
                    hint="compensate yourself; nothing was executed here",
                )
        elif isinstance(run.signal, e.CompensationRequested):
            context = Context(envelope=None, envelope_bytes=b"", fingerprint="", trace=trace)
            first = e.Tombstoned(
                at=run.signal.at,
                requested_by=run.signal.requested_by or "unknown",
                reason=run.signal.reason,
            )
        else:
            return None
        span = self._begin_span(run, saga, context.trace)
        advanced = await self._interpreter.advance(unit, saga, context, [first], span.context)
        row = self._row(run, advanced, context)
        await unit.insert(row, advanced.events)
        return _Adopted(context=context, row=row, advanced=advanced, span=span)

    def _begin_span(
        self,
        run: Run,
        saga: Saga,
        trace: TraceContext,
        asked: TraceContext | None = None,
        lost: Sequence[CutOff] = (),
    ) -> Span:
        """A span below the stored context, linked to what it continues and to who asked for it.

        It continues what was in flight when the run before was lost; where nothing was, the
        latest attempt of each step.
        """
        links = [each.span for each in lost]
        if not lost:
            links = [step.compensation_span or step.span for step in saga.steps.values()]
        if run.offer is not None:
            asked = run.offer[0].trace
        if asked is not None and asked.traceparent != trace.traceparent:
            links.append(asked.traceparent)
        return self._observer.run(
            run.saga_id, self._plan.stage, trace, [link for link in links if link]
        )

    def _row(self, run: Run, advanced: Advanced, context: Context) -> SagaRow:
        return row_of(
            self._participant,
            advanced.saga,
            context,
            rest_until=advanced.rest_until,
            running=bool(advanced.outgoing) or run.in_flight > 0,
        )

    def _adopt(self, run: Run, adopted: _Adopted) -> None:
        """Take over what has become durable, tell the observer, wake who waits."""
        run.saga, run.context, run.row = adopted.advanced.saga, adopted.context, adopted.row
        if adopted.span is not None:
            run.span = adopted.span
        for span, event in adopted.advanced.ended:
            end_span(span, event)
        for each in adopted.cut_off:
            self._tell_cut_off(adopted, each)
        for event in adopted.advanced.events:
            self._observer.happened(run.saga_id, self._plan.stage, event, adopted.context.trace)
        if adopted.advanced.events:
            run.changed()

    def _tell_defect(self, run: Run, where: str, error: BaseException) -> None:
        trace = run.context.trace if run.context is not None else TraceContext()
        self._observer.defect(where, run.saga_id, trace, error)

    def _tell_cut_off(self, adopted: _Adopted, each: CutOff) -> None:
        """Report an attempt that the run before could not: its process is gone."""
        saga = adopted.advanced.saga
        self._observer.cut_off(
            saga.id,
            self._plan.stage,
            each.step or "tell_upstream",
            each.activity,
            each.attempt,
            peer=self._plan.step(each.step).peer if each.step else saga.upstream,
            parent=adopted.context.trace,
            links=each.links,
            span_id=each.span,
            began=each.began,
            ended=adopted.advanced.events[0].at,
        )

    async def _persist(self, work: Callable[[Unit], Awaitable[T]]) -> T:
        """Run a unit until it is durable: the database may be away for long (rule 16)."""
        attempt = 0
        while True:
            try:
                return await self._store.transact(work)
            except StoreUnavailable:
                if self._draining:
                    raise
                attempt += 1
                await self._clock.sleep(STORE_RETRY.backoff_seconds(attempt, "store"))

    async def _park(self, run: Run, reason: str) -> None:
        """A saga that cannot be run must not be tried for ever, nor stop the others."""
        row = run.row or await self._store.get(run.saga_id)
        if row is None or row.answer_status is not None:
            return
        now = self._clock.now()
        parked = msgspec.structs.replace(
            row, parked=reason[:500], due_at=None, length=row.length + 1, updated_at=now
        )
        event = e.Parked(at=now, reason=reason[:500])
        try:
            await self._store.transact(lambda unit: unit.save(parked, [event], epoch=row.epoch))
        except (StoreUnavailable, StaleEpoch, StageError):
            return  # it stays due, and is tried again at the next scan
        self._observer.happened(
            run.saga_id,
            self._plan.stage,
            event,
            TraceContext(traceparent=row.traceparent, tracestate=row.tracestate),
        )

    async def _scan(self) -> None:
        """Bring back what is due and not in memory."""
        while True:
            await self._clock.sleep(RECOVERY_SCAN_SECONDS)
            if self._backlog:
                continue
            try:
                self._backlog.extend(await self._store.due(self._clock.now(), DUE_IDS_MAX))
                self._pump()
            except StoreUnavailable:
                pass  # it is looked for again
            except Exception as error:
                _tell_loop("the scan for due sagas failed", error)

    async def _tidy(self) -> None:
        """Close what is over for longer than the compensation window, in bounded batches."""
        while True:
            try:
                closed = await self._store.transact(self._close_batch)
            except StoreUnavailable:
                closed = 0
            except Exception as error:
                closed = 0
                _tell_loop("closing sagas failed", error)
            if closed < CLOSE_SAGAS_MAX:
                window = self._limits.compensation_window_seconds
                await self._clock.sleep(max(TIDY_SECONDS_MIN, min(TIDY_SECONDS_MAX, window / 10)))

    async def _close_batch(self, unit: Unit) -> int:
        now = self._clock.now()
        before = now - self._limits.compensation_window_seconds
        return await unit.close_ended(before, now, CLOSE_SAGAS_MAX)

    def _snapshot(self, run: Run) -> Snapshot:
        assert run.saga is not None and run.row is not None
        return Snapshot(
            row=run.row,
            saga=run.saga,
            next_at=run.row.due_at if run.in_flight == 0 else None,
            running=run.in_flight > 0,
        )


class _Adopted(msgspec.Struct, kw_only=True):
    """What a unit leaves behind once it is durable."""

    context: Context
    row: SagaRow
    advanced: Advanced
    span: Span | None = None
    cut_off: tuple[CutOff, ...] = ()
    """What was in flight when the run before was lost."""


async def _within(future: asyncio.Future[None], until: float) -> None:
    latest = max(until, asyncio.get_running_loop().time()) + OPEN_SECONDS_MAX
    if not await settled(future, latest):
        raise Unsettled("the database did not answer in time")


def _tell_loop(message: str, error: Exception) -> None:
    """A round goes on after a defect (rule 16), and the loop's handler says that there is one."""
    told = {"message": message, "exception": error}
    asyncio.get_running_loop().call_exception_handler(told)


def _worth_saying(run: Run) -> bool:
    return _answerable(run) or (run.saga is not None and bool(run.saga.parked))


def _outcome_of(run: Run, outcome: str) -> str:
    """How a run ended, for its span: the state of its saga, unless the run lost it."""
    if outcome in ("taken_over", "defect") or run.saga is None:
        return outcome
    return "parked" if run.saga.parked else run.saga.state.value


def _answerable(run: Run) -> bool:
    return run.row is not None and run.row.answer_status is not None


def _decided(plan: Plan, run: Run) -> bool:
    """True when waiting for the compensation would not change the answer."""
    saga = run.saga
    if saga is None or run.over or saga.parked or saga.forgotten or saga.state in UNDONE:
        return True
    return past_pivot(plan, saga)
