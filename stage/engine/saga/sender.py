"""Sends one attempt out of the process, and returns its end as an event."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, assert_never

import msgspec

from stage.core import events as e
from stage.core.commands import AttemptKind, Do
from stage.core.event_table import reason_of
from stage.core.failure import FailureKind
from stage.core.pause import Way
from stage.core.place import PEER_KINDS, UPSTREAMS, former_peers, peer_of_today
from stage.core.saga import Saga
from stage.core.states import EXTERNAL_KINDS, SagaState
from stage.core.steps import Step, StepKind
from stage.engine.saga.attempts import as_repeat, end_event, stored_requests, withdrawn
from stage.engine.saga.context import Context
from stage.engine.saga.interpreter import Interpreter, Outgoing
from stage.engine.saga.rates import Gate, Gates, Lane
from stage.ports.cached import of_now
from stage.ports.clock import Clock
from stage.ports.external import ExternalRequest
from stage.ports.neighbour import (
    CannotCompensate,
    Compensated,
    CompensateReply,
    Executed,
    ForwardReply,
    InProgress,
    NoInDoubt,
    NotExecuted,
    NotUnderstood,
    ShownExecuted,
)
from stage.ports.ownership import Ownership
from stage.ports.peers import Peers, PeerStanding
from stage.ports.stage import Answer, Failed, Foreign, Lost, Send, family_of
from stage.ports.time_limit import ARRIVED_SECONDS_MAX, TimeLimit
from stage.wire.outcome import Outcome
from stage.wire.replies import CompensateRequest

Journal = Callable[[e.Event], Awaitable[None]]
"""Makes an event durable before it returns."""

FORWARD_COMPENSATION_TIMEOUT_SECONDS = 30.0
TIMEOUT_MARGIN_SECONDS = 0.2
"""The transport's own timeout, which knows whether the request left, must come first."""

UNANSWERED = frozenset({FailureKind.TRANSIENT, FailureKind.IN_DOUBT, FailureKind.DEFECT})
"""The ends of a function that an API which is away, or comes back, would give it."""


_WAYS = {
    Lane.NEW: Way.FORWARD,
    Lane.RECOVERED: Way.FORWARD,
    Lane.COMPENSATION: Way.BACKWARD,
}


def _lane(saga: Saga, do: Do) -> Lane:
    if saga.state is not SagaState.ACTIVE or do.kind is AttemptKind.TELL:
        return Lane.COMPENSATION
    return Lane.RECOVERED if saga.epoch > 1 else Lane.NEW


class Waiting(NamedTuple):
    """An attempt that waits for its turn at the gate of its peer."""

    outgoing: Outgoing
    gate: Gate
    lane: Lane


class Sender:
    """Sends the attempts of one stage. No failure outside raises: each is an event."""

    def __init__(
        self, interpreter: Interpreter, peers: Peers, ownership: Ownership, clock: Clock
    ) -> None:
        self._interpreter = interpreter
        self._plan = interpreter.plan
        self._former = former_peers(each.plan for each in family_of(interpreter.versions.newest))
        self._external = peers.external
        self._neighbours = peers.neighbours
        self._ownership = ownership
        self._clock = clock
        self._gates = Gates(peers.limits, clock.now)
        self._queued: dict[str, dict[asyncio.Timeout, Waiting]] = {}
        """By saga the attempts that wait for their turn."""
        self._taken_back: set[asyncio.Timeout] = set()
        """The waits that `withdraw` has ended."""
        self._draining = False
        self._gate_of_step = {
            step.name: self._gates.of(f"{PEER_KINDS[step.kind]}.{step.peer}")
            for step in self._plan.steps
            if step.kind in PEER_KINDS
        }

    def divide(self, replicas: int) -> None:
        """So many replicas share the limits of each peer (rule 29)."""
        self._gates.divide(replicas)

    def standing(self) -> list[PeerStanding]:
        """How the way to each peer stands."""
        return [each for each in self._gates.standing() if each.peer]

    def peer_of_today(self, peer: str) -> str:
        """See `core.place.peer_of_today`."""
        return peer_of_today(peer, self._neighbours.name_of_today, self._former)

    def hold(self, held: Mapping[str, frozenset[Way]]) -> None:
        """Let no attempt in these directions leave to these peers from here on (core.pause)."""
        lanes: dict[str, frozenset[Lane]] = {}
        for peer, ways in held.items():
            today = self.peer_of_today(peer)  # a pause may be older than the rename
            of_these = frozenset(lane for lane in Lane if _WAYS[lane] in ways)
            lanes[today] = lanes.get(today, frozenset()) | of_these
        self._gates.hold(lanes)
        if self._draining:
            self._take_back_held()

    async def send(
        self, saga: Saga, context: Context, outgoing: Outgoing, journal: Journal
    ) -> e.AttemptEnd:
        """Send one attempt; its end as an event, which ends its span once it is durable.

        Nothing leaves while the lease of this replica is over: another one may run the saga by
        then. The wait ends when the lease is renewed, or with the task, when the saga is lost.
        """
        gate = self._gate(saga, outgoing.do)
        lane = _lane(saga, outgoing.do)
        if not gate.enter_at_once(lane):
            kept_out = await self._enter(gate, lane, saga, outgoing)
            if kept_out is not None:
                return kept_out
        end: e.AttemptEnd | None = None
        try:
            if not self._ownership.sure:
                await self._ownership.assured()
            end = await self._send(saga, context, outgoing, journal)
            return end
        finally:
            if not outgoing.prepared:
                gate.leave(answered=None)  # our own matter: the peer was not asked
            elif outgoing.answered is False and end is not None:
                gate.leave(answered=False, failure=reason_of(end))
            else:
                gate.leave(answered=None if end is None else outgoing.answered)

    async def _enter(
        self, gate: Gate, lane: Lane, saga: Saga, outgoing: Outgoing
    ) -> e.AttemptEnd | None:
        """Wait for the turn of an attempt; its end, where it is not to leave any more."""
        if self._draining and gate.holds(lane):
            return self._withdrawn(outgoing)
        budget = self._budget(saga) if outgoing.do.kind is AttemptKind.EXECUTE else None
        queued = self._queued.setdefault(saga.id, {})
        wait = asyncio.timeout(budget)
        try:
            async with wait:
                queued[wait] = Waiting(outgoing, gate, lane)
                await gate.enter(lane)
        except TimeoutError:
            taken_back = wait in self._taken_back
            return self._withdrawn(outgoing) if taken_back else self._too_late(outgoing)
        finally:
            queued.pop(wait, None)
            self._taken_back.discard(wait)
            if not queued:
                self._queued.pop(saga.id, None)
        return None

    def withdrawable(self, saga_id: str) -> list[e.AttemptEnd]:
        """The ends that the attempts of that saga which wait for their turn would have."""
        waiting = self._queued.get(saga_id, {}).values()
        return [self._withdrawn(each.outgoing) for each in waiting]

    def withdraw(self, saga_id: str) -> None:
        """Let the attempts of that saga which wait for their turn end: they have not left."""
        for wait in self._queued.get(saga_id, {}):
            self._take_back(wait)

    def drain(self) -> None:
        """From here on an attempt that a pause holds ends as withdrawn: the process is to stop."""
        self._draining = True
        self._take_back_held()

    def _take_back_held(self) -> None:
        for queued in list(self._queued.values()):
            for wait, each in queued.items():
                if each.gate.holds(each.lane):
                    self._take_back(wait)

    def _take_back(self, wait: asyncio.Timeout) -> None:
        if not wait.expired():
            self._taken_back.add(wait)
            wait.reschedule(asyncio.get_running_loop().time())

    def _withdrawn(self, outgoing: Outgoing) -> e.AttemptEnd:
        return withdrawn(outgoing.do, self._clock.now())

    def _gate(self, saga: Saga, do: Do) -> Gate:
        """The way to the peer of an attempt; an upstream that is not configured shares one."""
        if do.step and saga.plan is None:
            return self._gate_of_step[do.step]
        if do.step:
            step = saga.under(self._plan).step(do.step)
            return self._gates.of(f"{PEER_KINDS[step.kind]}.{step.peer}")
        today = self._neighbours.name_of_today(saga.upstream)
        known = self._neighbours.is_upstream(today)
        return self._gates.of(f"{UPSTREAMS}.{today}" if known else "")

    def _send(
        self, saga: Saga, context: Context, outgoing: Outgoing, journal: Journal
    ) -> Awaitable[e.AttemptEnd]:
        do = outgoing.do
        if do.kind is AttemptKind.TELL:
            return self._tell(saga, outgoing)
        if saga.under(self._plan).by_name[do.step].kind in EXTERNAL_KINDS:
            return self._call(saga, context, outgoing, journal)
        if do.kind is AttemptKind.EXECUTE:
            return self._forward(saga, outgoing)
        outgoing.prepared = True
        if do.kind is AttemptKind.PROBE:
            return self._get_outcome(saga, outgoing)
        return self._compensate_downstream(saga, outgoing)

    async def _call(
        self, saga: Saga, context: Context, outgoing: Outgoing, journal: Journal
    ) -> e.AttemptEnd:
        step = saga.under(self._plan).step(outgoing.do.step)
        budget = self._budget(saga) if outgoing.do.kind is AttemptKind.EXECUTE else None
        seconds = step.timeout_seconds
        if budget is not None:
            if budget <= 0:
                return self._too_late(outgoing)
            seconds = min(seconds, budget)
        try:
            margin = TIMEOUT_MARGIN_SECONDS
            with TimeLimit(seconds + margin, ARRIVED_SECONDS_MAX + margin):
                return await self._converse(saga, context, outgoing, journal, budget, seconds)
        except TimeoutError:
            kind = FailureKind.IN_DOUBT if outgoing.prepared else FailureKind.DEFECT
            failed = Failed(kind=kind, reason=f"no answer within {seconds:g} s")
            outgoing.answered = False
            return end_event(outgoing.do, failed, self._clock.now())

    async def _converse(
        self,
        saga: Saga,
        context: Context,
        outgoing: Outgoing,
        journal: Journal,
        budget: float | None,
        seconds: float,
    ) -> e.AttemptEnd:
        # Long because the request of each turn is built where its intent became durable.
        do = outgoing.do
        step = saga.under(self._plan).step(do.step)
        stored = outgoing.stored or stored_requests(saga, do)
        turn, conversation = outgoing.turn, outgoing.conversation
        assert conversation is not None and turn is not None
        if isinstance(turn, Foreign):
            # The requests of an effect are not seen from here on.
            outgoing.prepared = step.kind is StepKind.EFFECT
            now = self._clock.now()
            conversation = self._interpreter.converse(
                saga, context, do, outgoing.key, now, outgoing.span
            )
            turn = await conversation.proceed()
        try:
            while isinstance(turn := as_repeat(do, turn, stored), Send):
                outgoing.prepared = True
                request = await self._intended(do, turn, stored, journal)
                if turn.ordinal > 1:
                    self._gate(saga, do).charge()
                if not self._ownership.sure:
                    await self._ownership.assured()
                key = outgoing.key if turn.ordinal == 1 else f"{outgoing.key}:{turn.ordinal}"
                answer: Answer | Lost = await self._external.exchange(
                    ExternalRequest(
                        peer=step.peer,
                        request=request,
                        key=key,
                        trace=outgoing.span.context,
                        budget=budget,
                        timeout=seconds,
                        breakable=do.kind is AttemptKind.EXECUTE,
                        repeatable=do.kind is not AttemptKind.EXECUTE or step.idempotent,
                        looks=do.kind is AttemptKind.PROBE,
                    )
                )
                if do.kind is AttemptKind.PROBE:
                    answer = of_now(answer)
                turn = await conversation.resume(answer)
        finally:
            conversation.close()
        outgoing.answered = not (isinstance(turn, Failed) and turn.kind in UNANSWERED)
        return end_event(do, turn, self._clock.now(), self._interpreter.redact)

    async def _intended(
        self, do: Do, turn: Send, stored: tuple[e.Request, ...], journal: Journal
    ) -> e.Request:
        """The request of that turn, its intent durable; a repeat sends the stored bytes."""
        if turn.ordinal <= len(stored):
            return stored[turn.ordinal - 1]
        if do.kind is not AttemptKind.PROBE:
            await journal(
                e.RequestPrepared(
                    at=self._clock.now(),
                    step=do.step,
                    ordinal=turn.ordinal,
                    request=turn.request,
                    compensation=do.kind is AttemptKind.COMPENSATE,
                )
            )
        return turn.request

    async def _forward(self, saga: Saga, outgoing: Outgoing) -> e.AttemptEnd:
        step = saga.under(self._plan).step(outgoing.do.step)
        budget = self._budget(saga)
        seconds = step.timeout_seconds
        if budget is not None:
            if budget <= 0:
                return self._too_late(outgoing)
            seconds = min(seconds, budget)
        outgoing.prepared = True
        reply = await self._neighbours.forward(
            step.peer,
            saga.id,
            outgoing.body,
            trace=outgoing.span.context,
            budget=budget,
            timeout=seconds,
        )
        outgoing.answered = _is_answer(reply)
        return _end_of_forward(step, reply, self._clock.now())

    async def _get_outcome(self, saga: Saga, outgoing: Outgoing) -> e.AttemptEnd:
        """Ask downstream for its answer again, if it shows that it is done: that starts nothing.

        From there on only a word on the saga itself says that it is not done.
        """
        name = outgoing.do.step
        step = saga.under(self._plan).step(name)
        trace, timeout = outgoing.span.context, step.timeout_seconds
        shown = await self._neighbours.get_outcome(step.peer, saga.id, trace=trace, timeout=timeout)
        reply: ForwardReply
        if isinstance(shown, ShownExecuted):
            await self._ownership.assured()
            self._gate(saga, outgoing.do).charge()
            reply = await self._neighbours.forward(
                step.peer, saga.id, outgoing.body, trace=trace, budget=None, timeout=timeout
            )
        else:
            reply = shown
        outgoing.answered, at = _is_answer(reply), self._clock.now()
        match reply:
            case Executed():
                return e.ProbeFound(at=at, step=name, result=msgspec.Raw(reply.data))
            case NotExecuted(saga_over=True):
                return e.ProbeNotThere(at=at, step=name)
            case InProgress():
                return e.ProbeFailed(
                    at=at, step=name, reason="still running", retry_after=reply.retry_after
                )
            case NotExecuted() | NoInDoubt():  # what it shows it does not say again
                return e.ProbeFailed(at=at, step=name, reason=reply.reason, unserved=True)
            case Lost():
                return e.ProbeFailed(
                    at=at,
                    step=name,
                    reason=reply.reason,
                    retry_after=reply.retry_after,
                    unserved=reply.unserved,
                )
            case _:
                assert_never(reply)

    async def _compensate_downstream(self, saga: Saga, outgoing: Outgoing) -> e.AttemptEnd:
        name, plan = outgoing.do.step, saga.under(self._plan)
        reply = await self._neighbours.compensate(
            plan.step(name).peer,
            saga.id,
            CompensateRequest(
                requested_by=plan.stage,
                reason=saga.detail,
                first_sent_at=saga.accepted_at,  # no later than that
            ),
            trace=outgoing.span.context,
            timeout=FORWARD_COMPENSATION_TIMEOUT_SECONDS,
        )
        outgoing.answered = _is_answer(reply)
        at = self._clock.now()
        match reply:
            case Compensated():
                return e.CompensationSucceeded(at=at, step=name)
            case InProgress():
                return e.CompensationDelayed(
                    at=at, step=name, reason="still compensating", retry_after=reply.retry_after
                )
            case CannotCompensate():
                return e.CompensationRefused(
                    at=at, step=name, reason=reply.reason, stands=reply.stands
                )
            case Lost() | NotUnderstood():
                return e.CompensationDelayed(
                    at=at,
                    step=name,
                    reason=reply.reason,
                    retry_after=reply.retry_after,
                    not_understood=isinstance(reply, NotUnderstood),
                    denied=isinstance(reply, Lost) and reply.denied,
                    certain=isinstance(reply, Lost) and reply.certain,
                )
            case _:
                assert_never(reply)

    async def _tell(self, saga: Saga, outgoing: Outgoing) -> e.AttemptEnd:
        if not self._neighbours.is_upstream(saga.upstream):
            reason = f"no upstream {saga.upstream!r} is configured: add --upstream NAME=URL, retry"
            return e.TellRefused(at=self._clock.now(), reason=reason)
        outgoing.prepared = True
        reply = await self._neighbours.compensate(
            saga.upstream,
            saga.id,
            CompensateRequest(
                requested_by=saga.under(self._plan).stage,
                reason=saga.detail,
                outcome=Outcome.COMPENSATED if saga.state is SagaState.COMPENSATED else None,
            ),
            trace=outgoing.span.context,
            timeout=FORWARD_COMPENSATION_TIMEOUT_SECONDS,
        )
        outgoing.answered = _is_answer(reply)
        at = self._clock.now()
        match reply:
            case Compensated():
                return e.TellDelivered(at=at, status=200)
            case InProgress():
                return e.TellDelivered(at=at, status=202)
            case CannotCompensate():
                return e.TellRefused(at=at, reason=reply.reason)
            case Lost() | NotUnderstood():
                return e.TellDelayed(
                    at=at,
                    reason=reply.reason,
                    retry_after=reply.retry_after,
                    not_understood=isinstance(reply, NotUnderstood),
                    denied=isinstance(reply, Lost) and reply.denied,
                )
            case _:
                assert_never(reply)

    def _too_late(self, outgoing: Outgoing) -> e.AttemptEnd:
        """Nothing leaves after the deadline (rule 19), though its intent is in the journal."""
        failed = Failed(kind=FailureKind.TRANSIENT, reason="the deadline was over before it left")
        return end_event(outgoing.do, failed, self._clock.now())

    def _budget(self, saga: Saga) -> float | None:
        return None if saga.deadline is None else max(0.0, saga.deadline - self._clock.now())


def _is_answer(reply: ForwardReply | CompensateReply) -> bool:
    """Whether the neighbour answered: that it still works on it is an answer too."""
    return not isinstance(reply, Lost | NotUnderstood)


def _end_of_forward(step: Step, reply: ForwardReply, at: float) -> e.AttemptEnd:
    """The event for downstream's answer to `POST /sagas` (protocol 3.3)."""
    match reply:
        case Executed():
            return e.StepSucceeded(at=at, step=step.name, result=msgspec.Raw(reply.data))
        case InProgress():
            return e.StepPending(at=at, step=step.name, retry_after=reply.retry_after)
        case NotExecuted() | NoInDoubt():
            return e.StepRefused(
                at=at,
                step=step.name,
                reason=f"{step.peer}: {reply.reason}",
                may_stand=isinstance(reply, NoInDoubt),
                said=isinstance(reply, NotExecuted),
            )
        case Lost(certain=True):
            return e.StepTransient(
                at=at,
                step=step.name,
                reason=reply.reason,
                retry_after=reply.retry_after,
                denied=reply.denied,
                may_come=reply.not_now,
            )
        case Lost():
            return e.StepInDoubt(at=at, step=step.name, reason=reply.reason, denied=reply.denied)
        case _:
            assert_never(reply)
