"""The engine within the process: one task a live saga, runs that belong to no request.

A run takes what is in its inbox, advances the saga in one unit of the store, and sends what came
out of it; how that ended comes back into the inbox. Only one unit a saga is under way at a time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from stage.core import events as e
from stage.core.errors import JournalMismatch
from stage.core.machine import asked_before, evolve
from stage.core.questions import past_pivot
from stage.core.states import SagaState
from stage.core.steps import Plan
from stage.engine.clock import SystemClock
from stage.engine.embedded import limits as limited
from stage.engine.embedded.limits import RUNS_PER_SAGA_MAX, EngineLimits
from stage.engine.embedded.live_saga import LiveSaga, NotLive, settled
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.recovery import Recovery
from stage.engine.saga.context import Context, bare_saga, context_with
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.opening import UNDONE, Opening
from stage.engine.saga.sender import Sender
from stage.ports.clock import Clock
from stage.ports.engine import Busy, NotAllowed, Reply, Snapshot, Unsettled
from stage.ports.observer import Observer, TraceContext
from stage.ports.peers import Peers
from stage.ports.stage import Participant
from stage.ports.store import Backlog, Entry, Filter, SagaRow, Store
from stage.wire.envelope import Envelope, fingerprint
from stage.wire.problem import WireError


class EmbeddedEngine:
    """Runs sagas as tasks of this event loop. `start`, then use, then `drain`."""

    def __init__(
        self,
        participant: Participant,
        store: Store,
        peers: Peers,
        observer: Observer,
        *,
        clock: Clock | None = None,
        limits: EngineLimits | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._participant = participant
        self._plan = participant.plan
        self._store = store
        self._limits = limits or EngineLimits()
        self._interpreter = Interpreter(participant, observer, self._clock)
        self._opening = Opening(self._interpreter, store.codec, observer, self._clock, self._admit)
        sender = Sender(self._interpreter, peers, self._clock)
        self._runs = LiveSagas(
            self._interpreter, self._opening, sender, store, observer, self._clock
        )
        self._rounds = Recovery(self._runs, store, observer, self._clock, self._limits)
        self._leaving = False

    # --- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take over every unfinished saga, then serve; later ones are picked up when due."""
        await self._rounds.start()

    def leave_rotation(self) -> None:
        """See `ports.engine.Engine`."""
        self._leaving = True

    async def drain(self, seconds: float) -> None:
        """Let what runs come to an end or to a rest, at most that long, then stop.

        What is still in flight then is in doubt, and taken up by the next start.
        """
        self._leaving = True
        self._rounds.stop()
        await self._runs.drain(seconds)

    @property
    def ready(self) -> bool:
        """See `ports.engine.Engine`."""
        return self._rounds.recovered and not self._leaving and self._store.available

    @property
    def live(self) -> int:
        """How many sagas are in memory."""
        return len(self._runs)

    @property
    def in_doubt(self) -> int:
        """See `ports.engine.Engine`."""
        return self._runs.in_doubt

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
                await self._check(envelope)
                if envelope.saga_id in self._runs:
                    continue  # it was opened for another request meanwhile
                offer = self._offer(envelope, print_, trace, deadline, respond_async)
                run = self._runs.open(envelope.saga_id, offer)
                self._runs.launch(run)
                if not respond_async:  # the end of most sagas is the first that is heard of them
                    await run.watch(until, _worth_saying)
                await self._opened(run, until)
            elif not await self._joined(run, until):
                continue
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
                run = self._runs.open(saga_id)
                run.signal = request
                self._runs.launch(run, trace)
                await self._opened(run, until)
                break
            if not await self._joined(run, until) or run.over or run.saga is None:
                continue
            if not asked_before(self._plan, run.saga, request):
                try:
                    await self._durably(run, request, until)
                except NotLive:
                    continue
                if run.span is not None:
                    run.span.link(trace.traceparent)
            break
        if not _decided(self._plan, run):
            await run.watch(until, lambda run: _decided(self._plan, run))
        return self._runs.snapshot(run)

    async def operate(self, saga_id: str, verb: e.Verb, *, dry_run: bool) -> Snapshot | None:
        """See `ports.engine.Engine`."""
        if dry_run:
            now = await self.look(saga_id)
            if now is None:
                return None
            self._opening.check(now.saga, verb)
            return msgspec.structs.replace(now, saga=evolve(self._plan, now.saga, verb))
        soon = asyncio.get_running_loop().time()
        while True:
            run = self._runs.get(saga_id)
            if run is None:
                run = self._runs.open(saga_id)
                run.signal = verb
                self._runs.launch(run)
                await self._opened(run, soon)
                return self._runs.snapshot(run) if run.saga is not None else None
            if not await self._joined(run, soon):
                continue
            with suppress(NotLive):
                await self._durably(run, verb, soon)
                return self._runs.snapshot(run)

    async def look(self, saga_id: str, wait_seconds: float = 0.0) -> Snapshot | None:
        """See `ports.engine.Engine`."""
        run = self._runs.get(saga_id)
        if run is not None and wait_seconds > 0 and not run.over:
            await run.watch(asyncio.get_running_loop().time() + wait_seconds, lambda _: True)
        if run is not None and run.saga is not None and run.row is not None:
            return self._runs.snapshot(run)
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
        await self._written()
        return await self._store.entries(saga_id)

    async def page(self, which: Filter) -> list[SagaRow]:
        """See `ports.engine.Engine`."""
        await self._written()
        return await self._store.page(which)

    async def count(self) -> dict[SagaState, int]:
        """See `ports.engine.Engine`."""
        await self._written()
        return await self._store.count()

    async def backlog(self) -> Backlog:
        """See `ports.engine.Engine`."""
        return await self._store.backlog(self._clock.now())

    async def _written(self) -> None:
        """Who asks for what is stored is to find what was answered before, unless that takes long.

        While the database is away it would take as long as that lasts.
        """
        if self._store.available:
            latest = asyncio.get_running_loop().time() + limited.WRITTEN_SECONDS_MAX
            await self._runs.written(latest)

    # --- what these have in common ---------------------------------------------------------------

    async def _opened(self, run: LiveSaga, until: float) -> None:
        """Return when the run has its saga. Raises Unsettled when the database takes too long."""
        await _within(run.opened, until)

    async def _joined(self, run: LiveSaga, until: float) -> bool:
        """True once a run that was opened for somebody else has its saga.

        False when what it was opened for is refused: that is said to whom it concerns, and the
        others open the saga for themselves.
        """
        try:
            await self._opened(run, until)
        except (NotAllowed, Busy, WireError):
            return False
        return True

    async def _durably(self, run: LiveSaga, event: e.Event, until: float) -> None:
        """Journal an event for somebody who waits. Raises Unsettled, as `_opened` does."""
        await _within(run.post_durably(event), until)

    def _shed(self) -> None:
        """Refuse before anything is looked up, when even looking up would be too much."""
        if len(self._runs) >= RUNS_PER_SAGA_MAX * self._limits.sagas_max:
            raise Busy(f"{len(self._runs)} sagas are being looked at, the limit")

    def _admit(self, run: LiveSaga) -> None:
        """Refuse a saga never seen; one that was seen is answered whatever the load."""
        if self._runs.draining:
            raise Busy("draining: this process is about to stop", retry_after=2.0)
        if not self._rounds.recovered:
            raise Busy("starting: unfinished sagas are being taken over")
        self._runs.admit(run, self._limits.sagas_max)

    async def _check(self, envelope: Envelope) -> None:
        """Refuse a payload that the stage does not take, unless it took the saga before.

        What `accepts` names may have changed since. A saga that ran is answered from its row:
        `not_executed` would not be true of it.
        """
        try:
            self._participant.check(envelope.data)
        except WireError:
            if await self._store.get(envelope.saga_id) is None:
                raise

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
        encoded = self._store.codec.encode_envelope(envelope)
        context = context_with(envelope, encoded, print_, trace)
        upstream = envelope.trail[-1].stage if envelope.trail else ""
        accepted = e.Accepted(
            at=now,
            deadline=deadline,
            upstream=upstream,
            deferred=respond_async,
            baggage=trace.baggage,
        )
        return context, accepted

    async def _answer(self, run: LiveSaga, until: float) -> SagaRow | None:
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
                with suppress(NotLive):
                    await self._durably(run, e.AnswerDeferred(at=self._clock.now()), until)
        return run.row


async def _within(future: asyncio.Future[None], until: float) -> None:
    latest = max(until, asyncio.get_running_loop().time()) + limited.OPEN_SECONDS_MAX
    if not await settled(future, latest):
        raise Unsettled("the database did not answer in time")


def _worth_saying(run: LiveSaga) -> bool:
    return _answerable(run) or (run.saga is not None and bool(run.saga.parked))


def _answerable(run: LiveSaga) -> bool:
    return run.row is not None and run.row.answer_status is not None


def _decided(plan: Plan, run: LiveSaga) -> bool:
    """True when waiting for the compensation would not change the answer."""
    saga = run.saga
    if saga is None or run.over or saga.parked or saga.forgotten or saga.state in UNDONE:
        return True
    return past_pivot(plan, saga)
