"""Commands to one saga, done here or at the replica that owns it.

Each has the same shape: do it with the live saga; where another replica owns the saga, have it done
there and answer from what is stored; where no replica owns it any more, begin again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from msgspec.structs import replace

from stage.core import events as e
from stage.core.errors import StoreUnavailable
from stage.core.machine import asked_before, evolve, heard_before
from stage.core.questions import past_pivot
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import StepKind
from stage.core.unseen import Unseen, judge_unseen
from stage.engine.embedded import limits as limited
from stage.engine.embedded.elsewhere import LeftOut
from stage.engine.embedded.erasing import UNSEEN, EmbeddedErasing
from stage.engine.embedded.limits import OPEN_PER_RUNNING_MAX
from stage.engine.embedded.live_saga import LiveSaga, NotLive, settled
from stage.engine.embedded.live_sagas import snapshot
from stage.engine.embedded.parts import Parts
from stage.engine.embedded.queries import loop_time
from stage.engine.saga.closing import answer_past_retention, refuse_closed
from stage.engine.saga.context import (
    Context,
    context_of,
    context_with,
    fingerprint_of,
    same_opener,
    same_payload,
)
from stage.engine.saga.dropped import past_retention
from stage.engine.saga.opening import Offer, OpenRequest
from stage.engine.saga.words import readable
from stage.ports.engine import (
    Busy,
    DeadlineOver,
    LeftToNewer,
    NotAllowed,
    NotYours,
    PayloadDiffers,
    Reply,
    SagaLost,
    Snapshot,
    Unsettled,
)
from stage.ports.observer import TraceContext
from stage.ports.ownership import HeldElsewhere
from stage.ports.store import SagaRow
from stage.wire.envelope import Envelope, check_room
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.replies import CompensateRequest
from stage.wire.saga_outcome import outcome_of

UNREAD = "its journal cannot be read: it can only be forgotten"
COMPENSATION_OVER = frozenset({SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE})


class EmbeddedCommands(EmbeddedErasing):
    """The commands of ports.engine.Commands to one saga, beside the queries."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._participant = parts.participant
        self._withdrawing = parts.withdrawing
        self._plan_hash = parts.plan_hash
        self._forwards = any(step.kind is StepKind.FORWARD for step in self._plan.steps)
        self._opening = parts.opening
        self._limits = parts.limits

    async def accept(
        self,
        envelope: Envelope,
        *,
        trace: TraceContext,
        deadline: float | None,
        respond_async: bool,
        wait_seconds: float,
    ) -> Reply | None:
        """See `ports.engine.Commands`."""
        # Long because every way in which a saga can be met stands in one loop.
        saga_id, until = envelope.saga_id, loop_time() + wait_seconds
        latest = _latest(until)
        fingerprint = fingerprint_of(envelope)
        exists = False  # whether the saga was seen: it may have been accepted for this very request
        first = False  # whether it was written down for this request, and is run by a scheduler
        while True:
            live = self._sagas.get(saga_id)
            joined = live is not None
            own: Context | None = None  # that of this very request
            try:
                if live is None:
                    self._refuse_flood()
                    offer = self._offer(envelope, fingerprint, trace, deadline, respond_async)
                    await self._check(envelope, len(offer.context.envelope_bytes))
                    if saga_id in self._sagas:
                        continue  # it was opened for another request meanwhile
                    own = offer.context
                    live = await self._open_offered(saga_id, offer, until)
                    if offer.late and _was_buried(live):
                        raise DeadlineOver(f"the deadline of saga {saga_id} was over on arrival")
                elif not await self._joined(live, until):
                    continue
                if live.context is None:
                    continue  # there was nothing to open, and it is gone by now
                assert live.row is not None
                exists = True
                if live.context is not own:
                    _check_same(live.context, live.row, envelope, fingerprint)
                replayed = live.replayed or (joined and _answered(live))
                first = first or (live.request.deposit and not (joined or live.replayed))
                if respond_async and not _answered(live):
                    until = 0.0  # join a saga that runs already: deferred like any other
                row = live.row if _answered(live) else await self._answer(live, until)
                if row is not None or (_is_deferred(live) and not live.lost):
                    return _reply(row, replayed=replayed)
                if not live.lost:  # it left memory first: what 202 says is journaled by opening it
                    respond_async = True
                    continue
            except HeldElsewhere:
                exists, until = True, 0.0 if respond_async else until
            except (StoreUnavailable, Busy) as error:
                if not exists:
                    raise
                raise _unread(error) from error
            found = await self._answer_elsewhere(envelope, fingerprint, until)
            if found is not None:
                return _reply(found, replayed=not first)
            if live is not None:
                await self._gone(live, until)
            _look_again(latest)
            # Nobody runs it who could journal what the caller is answered: the opening does.
            respond_async = respond_async or loop_time() >= until

    async def bar(self, saga_id: str, *, upstream: str, reason: str, trace: TraceContext) -> bool:
        """See `ports.engine.Commands`."""
        if saga_id not in self._sagas:
            held = await self._store.get(saga_id)
            if held is not None:
                return _never_ran(held)
        live = self._sagas.get(saga_id)
        if live is None:
            first = e.Tombstoned(at=self._clock.now(), requested_by=upstream, reason=reason)
            live = self._sagas.open(OpenRequest(saga_id=saga_id, barred=first, trace=trace))
        await self._opened(live, loop_time())
        return live.saga is not None and live.saga.tombstone

    async def _open_offered(self, saga_id: str, offer: Offer, until: float) -> LiveSaga:
        """The saga once it is there; where a caller waits, once there is an answer."""
        trace = offer.context.trace
        live = self._sagas.open(OpenRequest(saga_id=saga_id, offer=offer, trace=trace))
        if not offer.accepted.deferred:  # most sagas end before anything else is heard of them
            await live.watch(until, _worth_an_answer)
        await self._opened(live, until)
        return live

    async def _answer(self, live: LiveSaga, until: float) -> SagaRow | None:
        """The row once it holds an answer; None when the caller is answered 202, or `live` is over.

        A 202 is journaled before it is said (decision 0007), so the end of the saga knows whether
        the caller still waits for it or has to be notified.
        """
        while not _answered(live):
            assert live.saga is not None
            if loop_time() < until and not _stands_still(live.saga) and not live.over:
                await live.watch(until, _worth_an_answer)
            elif live.over or live.saga.deferred:
                return None
            else:
                with suppress(NotLive):
                    await self._durably(live, e.AnswerDeferred(at=self._clock.now()), until)
        return live.row

    async def _answer_elsewhere(
        self, envelope: Envelope, fingerprint: str, until: float
    ) -> SagaRow | None:
        """The row of a saga that another replica runs; without an answer, 202 is journaled.

        None when no replica runs it any more.
        """
        saga_id = envelope.saga_id
        try:
            row = await self._elsewhere.row_when(saga_id, until, lambda row: row.answered)
            if row is None:
                return None
            _check_same(context_of(row, self._store.codec), row, envelope, fingerprint)
            if row.answered:
                return row
            deferred = e.AnswerDeferred(at=self._clock.now())
            if await self._elsewhere.journaled(
                saga_id, deferred, lambda saga: saga.deferred or saga.ended, until
            ):
                return await self._store.get(saga_id)
        except StoreUnavailable as error:
            raise _unread(error) from error
        return None

    async def compensate(
        self,
        saga_id: str,
        *,
        asked: CompensateRequest,
        requester: Requester = Requester.CLAIMED,
        trace: TraceContext,
        wait_seconds: float,
    ) -> Snapshot:
        """See `ports.engine.Commands`."""
        until = loop_time() + wait_seconds
        latest = _latest(until)
        opening = self._compensation(saga_id, asked, requester, trace)
        request = opening.signal
        assert isinstance(request, e.CompensationRequested)

        def needless(saga: Saga) -> bool:
            return asked_before(saga.under(self._plan), saga, request)

        while True:
            try:
                live = await self._request_compensation(opening, until)
                if live is None:
                    continue
                if not self._decided(live):
                    await live.watch(until, self._decided)
                if not live.lost or self._is_decided(live.saga):
                    return snapshot(live)
            except HeldElsewhere:
                held = await self._elsewhere.stored(saga_id)
                if held is not None:
                    self._opening.check(held.saga, request)
            if await self._elsewhere.journaled(saga_id, request, needless, until):
                found = await self._elsewhere.snapshot_when(saga_id, until, self._is_decided)
                if found is not None:
                    return found
            _look_again(latest)

    def _compensation(
        self,
        saga_id: str,
        asked: CompensateRequest,
        requester: Requester,
        trace: TraceContext,
    ) -> OpenRequest:
        request = e.CompensationRequested(
            at=self._clock.now(),
            requested_by=asked.requested_by,
            requester=requester,
            reason=readable(self._redact, asked.reason),
            compensated=asked.outcome is Outcome.COMPENSATED,
            generation=self._store.identity.generation,
        )
        return OpenRequest(
            saga_id=saga_id,
            signal=request,
            trace=trace,
            unseen=self._judge(saga_id, asked),
            first_sent_at=asked.first_sent_at,
        )

    async def _request_compensation(self, opening: OpenRequest, until: float) -> LiveSaga | None:
        """The live saga once the request is in its journal; None when it left memory before."""
        request = opening.signal
        assert isinstance(request, e.CompensationRequested)
        live = self._sagas.get(opening.saga_id)
        if live is None:
            live = self._sagas.open(opening)
            await self._opened(live, until)
            if live.row is None:
                raise _lost(opening)
            return live
        if not await self._joined(live, until) or live.over or live.saga is None:
            return None
        self._opening.check(live.saga, request)
        if not asked_before(live.saga.under(self._plan), live.saga, request):
            try:
                await self._durably(live, request, until)
            except NotLive:
                return None
            if live.span is not None:
                live.span.link(opening.trace.traceparent)
        return live

    def _judge(self, saga_id: str, asked: CompensateRequest) -> Unseen:
        """The proof in the request, for a saga that is not in the database."""
        return judge_unseen(
            self._plan,
            saga_id,
            requested_by=asked.requested_by,
            first_sent_at=asked.first_sent_at,
            lost_before=self._store.identity.lost_before,
        )

    async def operate(self, saga_id: str, verb: e.Verb, *, dry_run: bool) -> Snapshot | None:
        """See `ports.engine.Commands`."""
        key = None if dry_run else verb.act_key
        async with self._once(key):
            found = await self._operate(saga_id, verb, dry_run=dry_run)
        if found is None and key is not None:
            await self.refuse_order(key, UNSEEN)
        if isinstance(verb, e.Forgotten) and found is not None and not dry_run:
            with suppress(StoreUnavailable):  # otherwise the end of retention closes it
                await self._close(saga_id)
        return found

    async def _operate(self, saga_id: str, verb: e.Verb, *, dry_run: bool) -> Snapshot | None:
        if dry_run:
            now = await self.get_saga(saga_id)
            if now is None:
                return None
            if not (now.readable or now.row.closed_at or isinstance(verb, e.Forgotten)):
                raise NotAllowed(now.row.parked or UNREAD)
            if now.row.closed_at is not None and (why := refuse_closed(now.row, verb)):
                raise NotAllowed(why)
            here = saga_id in self._sagas
            without = self._withdrawing.without_waiting if here else self._withdrawing.without_held
            saga = self._opening.taken_up(without(now.saga))
            self._opening.check(saga, verb)
            return replace(now, saga=evolve(saga.under(self._plan), saga, verb))
        soon = loop_time()
        latest = _latest(soon)
        while True:
            try:
                live = self._sagas.get(saga_id)
                if live is None:
                    live = self._sagas.open(OpenRequest(saga_id=saga_id, signal=verb))
                    await self._opened(live, soon)
                    return snapshot(live) if live.saga is not None else await self._now(saga_id)
                if not await self._joined(live, soon):
                    continue
                await self._withdrawing.make_way(live, verb, latest)
                with suppress(NotLive):
                    await self._durably(live, verb, soon)
                    return snapshot(live)
            except HeldElsewhere:
                found = await self._operate_elsewhere(saga_id, verb, soon)
                if found is not None:
                    return found
            _look_again(latest)

    async def _operate_elsewhere(self, saga_id: str, verb: e.Verb, until: float) -> Snapshot | None:
        """Have a verb done by the owner of the saga; None where it is to be tried again.

        Only the owner knows whether what is in flight has left: it judges the verb then, and what
        waits there is withdrawn for it. Raises NotAllowed where it refuses.
        """
        found, since = await self._elsewhere.stored(saga_id), 0
        if found is not None:
            self._opening.check(self._withdrawing.without_any(found.saga), verb)
            since = found.row.length
        try:
            done = await self._elsewhere.journaled(saga_id, verb, lambda _: False, until, since)
            return await self._elsewhere.stored(saga_id) if done else None
        except LeftOut:
            if verb.act_key is not None:
                await self.refuse_repeat(verb.act_key)
            found = await self._elsewhere.stored(saga_id)
            if found is not None:
                self._opening.check(found.saga, verb)
            return None

    async def hear(self, saga_id: str, word: e.Webhook) -> None:
        """See `ports.engine.Commands`."""
        if isinstance(word, e.WebhookRefused):
            word = replace(word, reason=readable(self._redact, word.reason))

        def needless(saga: Saga) -> bool:
            return heard_before(saga.under(self._plan), saga, word)

        soon = loop_time()
        latest = _latest(soon)
        while True:
            try:
                live = self._sagas.get(saga_id)
                if live is None:
                    live = self._sagas.open(OpenRequest(saga_id=saga_id, signal=word))
                    await self._opened(live, soon)
                    if live.saga is not None and live.saga.under(self._plan).newer:
                        raise LeftToNewer(f"{live.saga.under(self._plan).misfit}: it hears there")
                    return
                if not await self._joined(live, soon) or live.over or live.saga is None:
                    continue
                if not needless(live.saga) or _is_closed(live):
                    await self._durably(live, word, soon)
                return
            except NotLive:
                continue  # it left memory in between: it is opened with the word
            except HeldElsewhere:
                if await self._elsewhere.journaled(saga_id, word, needless, soon):
                    return
            _look_again(latest)

    # --- what these have in common ---------------------------------------------------------------

    async def _opened(self, live: LiveSaga, until: float) -> None:
        """Return when the saga is there. Raises Unsettled when the database takes too long."""
        if not live.is_open:
            await _within(live.opened, until)

    async def _joined(self, live: LiveSaga, until: float) -> bool:
        """True once a saga that was opened for another request is there.

        False when that request is refused, which concerns its sender alone: the others open the
        saga for themselves.
        """
        try:
            await self._opened(live, until)
        except (NotAllowed, Busy, DeadlineOver, SagaLost):
            return False
        return True

    async def _gone(self, live: LiveSaga, until: float) -> None:
        """Return once a saga that was lost has left memory. Raises Unsettled, as `_opened` does."""
        if not live.over:
            await live.watch(_latest(until), _never)
        if not live.over:
            raise Unsettled("the database did not answer in time")

    async def _durably(self, live: LiveSaga, event: e.Event, until: float) -> None:
        """Journal an event for a caller that waits. Raises Unsettled, as `_opened` does."""
        await _within(live.post_durably(event), until)

    def _refuse_flood(self) -> None:
        """Refuse before the store is read, when even reading would be too much."""
        if len(self._sagas) >= OPEN_PER_RUNNING_MAX * self._limits.sagas_max:
            raise Busy(f"{len(self._sagas)} sagas are in memory, the limit")

    async def _check(self, envelope: Envelope, size: int) -> None:
        """Refuse a payload that the stage does not take, unless it took the saga before.

        The members that `accepts` names may have changed since. A saga that ran is answered from
        its row: `not_executed` would not be true of it. `size` is that of the envelope, in bytes.
        """
        try:
            self._participant.check(envelope.data)
            if self._forwards:
                check_room(envelope, size, self._limits.wire)
        except WireError:
            if await self._store.get(envelope.saga_id) is not None:
                return
            if await self._dropped.has(envelope.saga_id):
                raise past_retention(envelope.saga_id) from None
            raise

    def _offer(
        self,
        envelope: Envelope,
        fingerprint: str,
        trace: TraceContext,
        deadline: float | None,
        respond_async: bool,
    ) -> Offer:
        now = self._clock.now()
        if deadline is None:
            deadline = now + self._limits.deadline_seconds_default
        if deadline > now:
            deadline = now + (deadline - now) * (1.0 - self._limits.compensation_reserve)
        encoded = self._store.codec.encode_envelope(envelope)
        return Offer(
            context=context_with(envelope, encoded, fingerprint, trace),
            accepted=e.Accepted(
                at=now,
                deadline=deadline,
                upstream=envelope.upstream,
                deferred=respond_async,
                baggage=trace.baggage,
                version=self._plan.version,
                plan_hash=self._plan_hash,
                generation=self._store.identity.generation,
            ),
            late=deadline <= now,
        )

    def _decided(self, live: LiveSaga) -> bool:
        if live.on_fast_path and live.row is not None:  # not folded for each of its changes
            return live.over or live.row.state in COMPENSATION_OVER
        return live.over or self._is_decided(live.saga)

    def _is_decided(self, saga: Saga | None) -> bool:
        """True when waiting for the compensation would not change the answer."""
        if saga is None or saga.parked or saga.forgotten or saga.state in COMPENSATION_OVER:
            return True
        plan = saga.under(self._plan)
        return plan.newer or past_pivot(plan, saga)


def _latest(until: float) -> float:
    """When a saga that changes hands all the time is not followed any more."""
    return max(until, loop_time()) + limited.OPEN_SECONDS_MAX


def _look_again(latest: float) -> None:
    if loop_time() >= latest:
        raise Unsettled("the saga changes hands all the time: ask again")


def _never(_: LiveSaga) -> bool:
    return False


async def _within(future: asyncio.Future[None], until: float) -> None:
    if future.done():
        return future.result()
    if not await settled(future, _latest(until)):
        raise Unsettled("the database did not answer in time")


def _unread(error: Exception) -> Unsettled:
    """The answer for a saga that is known to exist: `not_executed` would not be true of it."""
    return Unsettled(f"the saga was accepted, and cannot be read now: {error}")


def _never_ran(row: SagaRow) -> bool:
    """Whether the saga is a tombstone, or has not gone further than one."""
    return row.state is SagaState.COMPENSATED and not row.envelope and row.length == 1


def _was_buried(live: LiveSaga) -> bool:
    """Whether a tombstone was left just now, where there had been none."""
    return live.saga is not None and live.saga.tombstone and not live.replayed


def _check_same(context: Context, row: SagaRow, envelope: Envelope, fingerprint: str) -> None:
    """Refuse another neighbour's saga, and another payload under the same id.

    The trail's last name tells who opened it, and once the trail was dropped, what was kept of the
    request. A tombstone has neither, and no payload.
    """
    opener = context.trail[-1] if context.trail else ""
    foreign = bool(opener) and opener != envelope.upstream
    if foreign or not same_opener(context.fingerprint, fingerprint):
        raise NotYours(f"saga {envelope.saga_id} was opened by another neighbour than you")
    if not same_payload(context.fingerprint, fingerprint):
        outcome = outcome_of(row.state, forgotten=row.forgotten)
        raise PayloadDiffers(f"saga {envelope.saga_id} was accepted with other data", outcome)


def _reply(row: SagaRow | None, *, replayed: bool) -> Reply | None:
    """The stored answer; None while there is none."""
    if row is None or row.answer_status is None:
        return None
    if row.answer_dropped:
        answer = answer_past_retention(row)
        return Reply(
            status=answer.status, body=answer.body, replayed=replayed, traceparent=row.traceparent
        )
    return Reply(
        status=row.answer_status,
        body=row.answer_body,
        replayed=replayed,
        traceparent=row.traceparent,
    )


def _worth_an_answer(live: LiveSaga) -> bool:
    if _answered(live):
        return True
    if live.on_fast_path:  # asked at each change of every saga, which is not folded for it
        return False
    return live.saga is not None and _stands_still(live.saga)


def _is_closed(live: LiveSaga) -> bool:
    """Whether its journal was dropped: what is heard of it opens it anew."""
    return live.row is not None and live.row.closed_at is not None


def _is_deferred(live: LiveSaga) -> bool:
    """Whether the journal has it that callers are answered 202."""
    return live.saga is not None and live.saga.deferred


def _stands_still(saga: Saga) -> bool:
    """True of a saga that waits for a person, or for an API that ends its call in its own time."""
    return bool(saga.parked) or saga.pending


def _answered(live: LiveSaga) -> bool:
    return live.row is not None and live.row.answer_status is not None


def _lost(opening: OpenRequest) -> SagaLost:
    """Why nothing is known of a saga that somebody asks to compensate."""
    if opening.unseen is Unseen.LOST:
        return SagaLost(
            f"saga {opening.saga_id} was handed on from here, and is not in the database: it was"
            " lost; an operator has to reconcile",
            certain=True,
        )
    return SagaLost(
        f"saga {opening.saga_id} is not in the database, and was sent before that was made or"
        " restored: whether anything of it stands is not known"
    )
