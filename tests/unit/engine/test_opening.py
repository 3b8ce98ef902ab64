"""The first unit of a live saga: it is accepted, buried, taken over, written down or replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import pytest
from msgspec.structs import replace

from stage import Http, Refused, Stage, Tx
from stage import Saga as AuthorSaga
from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.commands import AttemptKind
from stage.core.errors import JournalMismatch, NewerJournal
from stage.core.requester import Requester
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState
from stage.core.unseen import Unseen, first_id_at
from stage.engine.saga.context import context_with, fingerprint_of
from stage.engine.saga.cut_off import CutOff
from stage.engine.saga.dropped import DroppedRows
from stage.engine.saga.fast_path import FastPath, FastTransition
from stage.engine.saga.folds import Folded
from stage.engine.saga.interpreter import Interpreter, Transition
from stage.engine.saga.journal import Journal, Stored
from stage.engine.saga.opening import DEATHS_MAX, LATE, Offer, Opening, OpenRequest
from stage.engine.saga.tombstones import REASON_CHARS_MAX
from stage.engine.saga.versions import Versions
from stage.ports.author_code import Suspicion
from stage.ports.engine import ActRepeated, Busy, LeftToNewer, NotAllowed, NotYours, PastRetention
from stage.ports.observer import DroppedKind, TraceContext
from stage.ports.ownership import HeldElsewhere
from stage.ports.store import UNKEPT, LostSaga, SagaRow, Unit
from stage.store import memory_unit
from stage.store.codec import PLAIN, PlainCodec
from stage.store.memory import MemoryStore
from stage.store.memory_database import NAMELESS, MemoryDatabase
from stage.wire.answers import render_ending
from stage.wire.envelope import Envelope, TrailEntry
from tests.unit.engine.given import NOW, TRACE, At, Code, Noting

ORDER = Envelope(
    saga_id="s-1",
    data={"number": "o-1"},
    trail=(TrailEntry(stage="order", at="2026-11-23T02:29:58.120Z"),),
)
CONTEXT = context_with(ORDER, PLAIN.encode_envelope(ORDER), fingerprint_of(ORDER), TRACE)
OTHER_TRACE = TraceContext(traceparent="00-" + "c" * 32 + "-" + "d" * 16 + "-01")
ACCEPTED = e.Accepted(at=NOW, upstream="order", baggage="tenant=7")
OFFER = Offer(context=CONTEXT, accepted=ACCEPTED, late=False)
ASKED = e.CompensationRequested(
    at=NOW, requested_by="order", requester=Requester.UPSTREAM, reason="changed my mind"
)
RETRIED = e.Retried(at=NOW, actor="kim", why="ticket 7")
FORGOTTEN = e.Forgotten(at=NOW, actor="kim", why="ticket 7")
DEFERRED = e.AnswerDeferred(at=NOW)
IN_DOUBT = e.StepInDoubt(at=NOW, step="ask", reason="no answer")
PARKED = e.Parked(at=NOW, cause=ParkCause.DEFECT, reason="broken")
FIRST = ["accepted", "step_succeeded", "step_started"]
"""The entries of a new saga: its transaction has run, and its call is in flight."""


def shop(**lineage: Any) -> Stage[dict[str, Any], None]:
    """A transaction and a call, each with a compensation."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any], **lineage)

    @stage.transaction
    async def reserve(tx: Tx, saga: AuthorSaga[Any]) -> None:
        """Nothing to write."""

    @reserve.compensation
    async def release(tx: Tx, saga: AuthorSaga[Any]) -> None:
        """Nothing to give back."""

    @stage.call(to="psp", timeout=1.0)
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await http.post("/charges", json={})

    @ask.compensation
    async def refund(http: Http, saga: AuthorSaga[Any], made: None) -> None:
        await http.post("/refunds", json={})

    return stage


class Older(PlainCodec):
    """The codec of a release that may not know how a call begins."""

    knows = True

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> e.Event:
        """See ports.codec.Codec."""
        event = super().decode_event(saga_id, number, encoded)
        if isinstance(event, e.StepStarted) and not self.knows:
            raise NewerJournal("a newer release goes on with it")
        return event


class NotedJournal(Journal):
    """Notes the epoch and the mail that each saga is written with."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.writes: list[tuple[int | None, tuple[int, ...]]] = []

    async def write(
        self, unit: Unit, stored: Stored, *, epoch: int | None, mail: Sequence[int] = ()
    ) -> None:
        """See `Journal`."""
        self.writes.append((epoch, tuple(mail)))
        await super().write(unit, stored, epoch=epoch)


class Desk:
    """An opening with all around it."""

    def __init__(self) -> None:
        self.clock, self.code, self.observer = At(), Code(), Noting()
        self.codec = Older()
        self.database = MemoryDatabase()
        self.store = MemoryStore(database=self.database, codec=self.codec)
        self.admitted: list[str] = []
        self.busy = False
        self.release(shop())

    def release(self, stage: Stage[Any, Any], *, fast: bool = False) -> None:
        """The opening of a process of that release."""
        versions = Versions(stage.bind(("shipping",)))
        interpreter = Interpreter(versions, self.observer, self.clock)
        self.journal = NotedJournal(versions, self.observer, render_ending)
        self.opening = Opening(
            interpreter,
            self.journal,
            self.store,
            self.observer,
            self.clock,
            self._admit,
            self.code,
            DroppedRows(self.store, self.clock),
            FastPath(interpreter, self.clock) if fast else None,
        )

    def _admit(self, request: OpenRequest) -> None:
        if self.busy:
            raise Busy("too many")
        self.admitted.append(request.saga_id)

    async def open(self, saga_id: str = "s-1", **request: Any) -> Stored | None:
        """The first unit of that saga."""
        asked = OpenRequest(saga_id=saga_id, **request)
        return await self.store.transact(partial(self.opening.first, request=asked))

    async def opened(self, saga_id: str = "s-1", **request: Any) -> Stored:
        """The same where there is something to open."""
        stored = await self.open(saga_id, **request)
        assert stored is not None
        return stored

    async def happened(self, *events: e.Event, **row: Any) -> None:
        """These entries were written to the accepted saga, and its row changed so."""
        before = await self.store.get("s-1")
        assert before is not None
        after = replace(before, length=before.length + len(events), **row)
        await self.store.transact(
            lambda unit: unit.save(after, events, epoch=before.epoch, before=before)
        )

    async def row(self) -> SagaRow:
        """Its row."""
        row = await self.store.get("s-1")
        assert row is not None
        return row

    async def events(self) -> list[e.Event]:
        """Its journal."""
        return [entry.event for entry in await self.store.entries("s-1")]

    async def names(self) -> list[str]:
        """The names of its entries."""
        return [e.name_of(event) for event in await self.events()]


@pytest.fixture
async def desk() -> Desk:
    desk = Desk()
    await desk.store.open()
    return desk


# --- a saga that is not there --------------------------------------------------------------------


@pytest.mark.parametrize("fast", [True, False])
async def test_a_new_saga_is_accepted_and_begins_in_one_unit(desk: Desk, fast: bool) -> None:
    """Rules 1 and 3: with the intent of all that leaves; its run has a span of its own."""
    desk.release(shop(), fast=fast)
    stored = await desk.opened(offer=OFFER, mail=(7,))
    assert FIRST == await desk.names()
    assert ["s-1"] == desk.admitted
    assert [("s-1", "shop", TRACE, ())] == desk.observer.runs
    assert stored.span is not None and not stored.replayed
    assert fast is isinstance(stored.transition, FastTransition)
    assert [(None, (7,))] == desk.journal.writes
    assert stored.row == await desk.row() and stored.context == CONTEXT


async def test_a_stage_that_has_no_room_writes_nothing(desk: Desk) -> None:
    """It asks to come again, and then nothing may be left of the first time."""
    desk.busy = True
    for request in ({"offer": OFFER}, {"signal": ASKED}, {"barred": e.Tombstoned(at=NOW)}):
        with pytest.raises(Busy):
            await desk.open(**request)
    assert await desk.store.get("s-1") is None


@pytest.mark.parametrize("upstream, by", [("order", "order"), ("", "unknown")])
async def test_a_saga_that_comes_after_its_deadline_is_buried(
    desk: Desk, upstream: str, by: str
) -> None:
    """Decision 0041: its sender takes the answer for final. Nothing is kept of its payload."""
    late = Offer(context=CONTEXT, accepted=replace(ACCEPTED, upstream=upstream), late=True)
    desk.code.suspicions["s-1"] = Suspicion(step="ask", deaths=DEATHS_MAX)
    await desk.opened(offer=late)
    assert [e.Tombstoned(at=NOW, requested_by=by, reason=LATE)] == await desk.events()
    row = await desk.row()
    assert (SagaState.COMPENSATED, b"", "", TRACE.traceparent) == (
        row.state, row.envelope, row.fingerprint, row.traceparent,
    )  # fmt: skip


async def test_a_request_to_compensate_a_saga_that_was_never_seen_buries_it(desk: Desk) -> None:
    """Rule 9, in the trace of that request. A tombstone keeps a part of the reason."""
    reason = "x" * (REASON_CHARS_MAX + 1)
    await desk.opened(signal=replace(ASKED, reason=reason), trace=OTHER_TRACE)
    tombstone = e.Tombstoned(at=NOW, requested_by="order", reason=reason[:REASON_CHARS_MAX])
    assert [tombstone] == await desk.events()
    assert ["s-1"] == desk.admitted
    assert OTHER_TRACE.traceparent == (await desk.row()).traceparent


async def test_a_tombstone_without_a_name_says_unknown(desk: Desk) -> None:
    await desk.opened(signal=replace(ASKED, requested_by=""))
    (tombstone,) = await desk.events()
    assert isinstance(tombstone, e.Tombstoned) and "unknown" == tombstone.requested_by


async def test_a_barred_saga_is_buried_as_it_was_barred(desk: Desk) -> None:
    """Its request was refused: no repeat of it runs."""
    barred = e.Tombstoned(at=NOW, requested_by="order", reason="not accepted")
    await desk.opened(barred=barred, trace=OTHER_TRACE)
    assert [barred] == await desk.events()
    assert ["s-1"] == desk.admitted
    assert OTHER_TRACE.traceparent == (await desk.row()).traceparent


@pytest.mark.parametrize("unseen", [Unseen.LOST, Unseen.MAY_BE_LOST])
async def test_a_request_about_a_saga_that_must_be_lost_is_kept(desk: Desk, unseen: Unseen) -> None:
    """Rule 33: a tombstone would say that nothing stands."""
    assert await desk.open(signal=ASKED, unseen=unseen, first_sent_at=NOW - 9.0) is None
    assert [
        LostSaga(
            saga_id="s-1",
            requested_by="order",
            reason="changed my mind",
            asked_at=NOW,
            first_sent_at=NOW - 9.0,
        )
    ] == await desk.store.lost_sagas(9)
    assert [] == desk.admitted and await desk.store.get("s-1") is None


async def test_a_request_for_which_there_is_no_room_is_not_forgotten(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left nothing, and a release would have said that nothing of its saga stands."""
    monkeypatch.setattr(memory_unit, "LOST_SAGAS_MAX", 1)
    for saga_id in ("s-1", "s-1", "s-2", "s-3"):
        assert await desk.open(saga_id, signal=ASKED, unseen=Unseen.LOST) is None
    kept = await desk.store.lost_sagas(9)
    assert [("s-1", "order"), (UNKEPT, "others")] == [
        (each.saga_id, each.requested_by) for each in kept
    ]
    assert [DroppedKind.LOST_REQUEST] * 2 == desk.observer.dropped_kinds


async def test_a_lost_saga_that_was_adopted_meanwhile_is_asked_for_there(desk: Desk) -> None:
    """Nobody would read the request any more."""

    class Adopted:
        """A unit that did not see the saga, though it is there by now."""

        async def take(self, saga_id: str) -> None:
            return None

        async def keep_lost(self, lost: LostSaga) -> bool:
            return False

    request = OpenRequest(saga_id="s-1", signal=ASKED, unseen=Unseen.LOST)
    with pytest.raises(HeldElsewhere, match="s-1 was adopted by another replica"):
        await desk.opening.first(cast(Unit, Adopted()), request)


@pytest.mark.parametrize("request_", [{}, {"signal": RETRIED}, {"signal": DEFERRED}])
async def test_nothing_is_opened_of_a_saga_that_is_not_there(
    desk: Desk, request_: dict[str, Any]
) -> None:
    """No verb and no wait makes one."""
    assert await desk.open(**request_) is None
    assert [] == desk.admitted


async def test_a_saga_that_may_have_been_dropped_is_never_run_anew(desk: Desk) -> None:
    """While a restored database awaits its release, nothing is kept of it either: it would take
    the place of a lost saga for good (decision 0119)."""
    saga_id = f"{first_id_at(NOW - 1.0)}000-8000-000000000001"
    desk.opening._dropped.known = replace(desk.opening._dropped.known, ids_until=NOW)
    with pytest.raises(PastRetention):
        await desk.open(saga_id, offer=OFFER)
    desk.database.identity = replace(NAMELESS, restored_as_of=NOW, restored_at=NOW)
    for unseen in (Unseen.MAY_BE_LOST, Unseen.LOST):
        assert await desk.open(saga_id, signal=ASKED, unseen=unseen) is None
    assert [] == await desk.store.lost_sagas(9)


async def test_an_offer_that_is_only_written_down_is_due_at_once(desk: Desk) -> None:
    """A scheduler says when and where it is run. A tombstone is written in any case."""
    stored = await desk.opened(offer=OFFER, deposit=True)
    assert ["accepted"] == await desk.names()
    assert NOW == (await desk.row()).due_at
    assert stored.span is None and [] == desk.observer.runs
    await desk.opened("s-2", signal=ASKED, deposit=True)
    assert 1 == len(await desk.store.entries("s-2"))


@pytest.mark.parametrize("deaths", [DEATHS_MAX - 1, DEATHS_MAX])
@pytest.mark.parametrize("fast", [True, False])
async def test_a_saga_in_whose_code_processes_died_is_parked_before_it_runs(
    desk: Desk, deaths: int, fast: bool
) -> None:
    """Rule 35: at the third start."""
    desk.release(shop(), fast=fast)
    desk.code.suspicions["s-1"] = Suspicion(step="reserve", deaths=deaths)
    await desk.opened(offer=OFFER)
    names = await desk.names()
    if deaths < DEATHS_MAX:
        assert FIRST == names
    else:
        assert ["accepted", "parked"] == names
        row = await desk.row()
        assert ParkCause.KILLS_PROCESS is row.parked_cause
        assert "2 processes died while reserve ran for it: mend that function, then retry" == (
            row.parked
        )


# --- a saga that is there ------------------------------------------------------------------------


async def test_a_saga_whose_process_was_lost_is_taken_over_in_the_next_epoch(desk: Desk) -> None:
    """Rules 15 and 17: durable before anything runs, with what was in flight in doubt."""
    await desk.opened(offer=OFFER)
    ((_, span),) = desk.observer.attempts[1:]
    desk.clock.shown = NOW + 5.0
    stored = await desk.opened(mail=(7, 9))
    assert e.Recovered(at=NOW + 5.0, epoch=2) == (await desk.events())[-1]
    row = await desk.row()
    assert (2, NOW + 5.0, 4) == (row.epoch, row.due_at, row.length)
    assert (1, (7, 9)) == desk.journal.writes[-1]
    lost = CutOff(step="ask", kind=AttemptKind.EXECUTE, attempt=1, span=span.span_id, began=NOW)
    assert (lost,) == stored.cut_off
    assert ("s-1", "shop", TRACE, (span.span_id,)) == desk.observer.runs[-1]
    assert stored.before is not None and 1 == stored.before.epoch
    assert stored.span is not None and TRACE == stored.context.trace


async def test_a_saga_is_worked_for_in_its_own_trace(desk: Desk) -> None:
    """For the log lines of functions that run in its first unit (rule 24)."""
    await desk.opened(offer=OFFER)
    await desk.opened(signal=ASKED, trace=OTHER_TRACE)
    assert [("s-1", replace(TRACE, baggage=""))] == desk.observer.bound


@pytest.mark.parametrize("acquitted", [True, False])
async def test_a_process_that_died_for_another_saga_costs_this_one_nothing(
    desk: Desk, acquitted: bool
) -> None:
    """Rule 35."""
    await desk.opened(offer=OFFER)
    if acquitted:
        desk.code.acquitted.add("s-1")
    await desk.opened()
    recovered = (await desk.events())[-1]
    assert isinstance(recovered, e.Recovered) and acquitted is recovered.innocent


WAITS = e.StepTransient(at=NOW, step="ask", reason="answered 503", retry_after=9.0)


@pytest.mark.parametrize(
    "since, rested",
    [((), False), ((WAITS,), True), ((WAITS, DEFERRED), True), ((WAITS, ASKED), True)],
)
async def test_no_run_is_lost_of_a_saga_that_waited(
    desk: Desk, since: tuple[e.Event, ...], rested: bool
) -> None:
    """Or of which something was written down that no run has acted on (rule 15)."""
    await desk.opened(offer=OFFER)
    await desk.happened(*since)
    stored = await desk.opened()
    recovered = next(each for each in await desk.events() if isinstance(each, e.Recovered))
    assert rested is recovered.rested
    assert bool(stored.cut_off) is not rested


async def test_an_attempt_in_flight_is_lost_whatever_was_written_down_since(desk: Desk) -> None:
    """Its process was there, and is gone."""
    await desk.opened(offer=OFFER)
    await desk.happened(DEFERRED)
    await desk.opened()
    recovered = next(each for each in await desk.events() if isinstance(each, e.Recovered))
    assert not recovered.rested


async def test_a_run_is_linked_to_the_latest_attempt_of_each_step_where_none_was_lost(
    desk: Desk,
) -> None:
    """Rule 23, and to the request that it runs for, where that came in another trace."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS)
    spans = tuple(span.span_id for _, span in desk.observer.attempts)
    await desk.opened(signal=DEFERRED, trace=OTHER_TRACE)
    assert ("s-1", "shop", TRACE, (*spans, OTHER_TRACE.traceparent)) == desk.observer.runs[-1]
    other = Offer(context=replace(CONTEXT, trace=OTHER_TRACE), accepted=ACCEPTED, late=False)
    await desk.opened(offer=other)
    assert OTHER_TRACE.traceparent == desk.observer.runs[-1][3][-1]
    await desk.opened(offer=OFFER)
    assert TRACE.traceparent not in desk.observer.runs[-1][3]


def test_an_undo_is_what_a_further_run_continues(desk: Desk) -> None:
    """A step without a span is linked to nothing."""
    steps = {
        "reserve": StepState(phase=Phase.SUCCEEDED, order=0, span="1" * 16),
        "ask": StepState(
            phase=Phase.COMPENSATION_WAITING, order=1, span="2" * 16, compensation_span="3" * 16
        ),
        "other": StepState(phase=Phase.SUCCEEDED, order=2),
    }
    desk.opening.begin_span(
        OpenRequest(saga_id="s-1", trace=TRACE), Saga(id="s-1", steps=steps), TRACE
    )
    assert [("s-1", "shop", TRACE, ("1" * 16, "3" * 16))] == desk.observer.runs


async def test_a_request_to_compensate_turns_a_saga_in_the_unit_that_takes_it_over(
    desk: Desk,
) -> None:
    """Where no run of it was lost before; the instants of one unit do not go back."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS)
    desk.clock.shown = NOW + 5.0
    stored = await desk.opened(signal=replace(ASKED, at=NOW + 3.0), mail=(7,))
    events = (await desk.events())[4:]
    assert [
        e.Recovered(at=NOW + 3.0, epoch=2, rested=True), replace(ASKED, at=NOW + 3.0),
    ] == events[:2]  # fmt: skip
    assert (
        e.CompensationStarted(at=NOW + 5.0, step="reserve", attempt=1, span=span_of(desk, -1))
        == events[2]
    )
    assert "compensated" == e.name_of(events[-1])
    assert (1, (7,)) == desk.journal.writes[-1]
    assert stored.row.answered


@pytest.mark.parametrize("fast", [True, False])
async def test_a_saga_that_lost_a_run_before_is_written_down_first(desk: Desk, fast: bool) -> None:
    """Rule 15: a saga that takes its process down with it is seen to do so."""
    desk.release(shop(), fast=fast)
    await desk.opened(offer=OFFER)
    await desk.opened()
    stored = await desk.opened(signal=ASKED)
    assert ["recovered", "compensation_requested"] == (await desk.names())[4:]
    assert isinstance(stored.transition, Transition)
    assert [] == stored.transition.outgoing


async def completed(desk: Desk, **row: Any) -> None:
    """The saga has completed, and its row is so."""
    await desk.opened(offer=OFFER)
    await desk.happened(
        e.StepSucceeded(at=NOW, step="ask"),
        e.StepStarted(at=NOW, step="forward:shipping", attempt=1),
        e.StepSucceeded(at=NOW, step="forward:shipping"),
        e.Completed(at=NOW),
        **{"state": SagaState.COMPLETED, "due_at": None, "answer_status": 200, **row},
    )


async def test_a_completed_saga_is_undone_on_the_fast_path(desk: Desk) -> None:
    """Its first undo leaves in the unit that takes it over. It waits nowhere any more."""
    desk.release(shop(), fast=True)
    waited = {"step": "ask", "peer": "externals.psp", "parked": "x", "deadline": NOW}
    await completed(desk, **waited, parked_cause=ParkCause.UPSTREAM_AWAY)
    desk.clock.shown = NOW + 5.0
    stored = await desk.opened(signal=ASKED)
    assert isinstance(stored.transition, FastTransition)
    assert ["recovered", "compensation_requested", "compensation_started"] == (await desk.names())[
        7:
    ]
    row = await desk.row()
    assert (2, 10, NOW + 5.0, SagaState.COMPENSATING) == (
        row.epoch, row.length, row.updated_at, row.state,
    )  # fmt: skip
    assert ("", "", "", None, None) == (
        row.step, row.peer, row.parked, row.parked_cause, row.deadline,
    )  # fmt: skip


async def test_a_saga_of_an_older_version_is_undone_by_its_own_functions(desk: Desk) -> None:
    """The fast path has those of the newest version alone (rule 32)."""
    await completed(desk)
    desk.release(shop(version=2, supersedes=shop()), fast=True)
    stored = await desk.opened(signal=ASKED)
    assert isinstance(stored.transition, Transition)
    assert "compensation_started" == (await desk.names())[-1]


def calling(how: str, reserved: bool = True) -> Stage[dict[str, Any], None]:
    """A stage whose call goes otherwise than the fast path has it."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    async def reserve(tx: Tx, saga: AuthorSaga[Any]) -> None:
        """Nothing to write."""

    if reserved:
        stage.transaction(compensation=None, reason="no test undoes it")(reserve)

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        if how == "refuses":
            raise Refused("no")
        if how == "needs the event loop":
            await asyncio.sleep(0)
        await http.post("/charges", json={})

    return stage


@pytest.mark.parametrize("how, ended", [("refuses", 2), ("needs the event loop", 1)])
async def test_each_span_ends_also_where_a_saga_leaves_the_fast_path(
    desk: Desk, how: str, ended: int
) -> None:
    """A span that is never ended is never reported."""
    desk.release(calling(how), fast=True)
    stored = await desk.opened(offer=OFFER)
    assert isinstance(stored.transition, Transition)
    spans = [span for _, span in desk.observer.attempts]
    assert spans[:ended] == [span for span, _ in stored.transition.ended]


@pytest.mark.parametrize("reserved", [True, False])
@pytest.mark.parametrize("fast", [True, False])
async def test_nothing_starts_at_the_deadline(desk: Desk, reserved: bool, fast: bool) -> None:
    """Rule 19: it was over by the time that the unit ran."""
    desk.release(calling("", reserved), fast=fast)
    await desk.opened(offer=replace(OFFER, accepted=replace(ACCEPTED, deadline=NOW)))
    assert ["accepted", "turned_back", "compensated"] == await desk.names()


async def test_a_stranger_that_asks_again_learns_nothing(desk: Desk) -> None:
    """Rule 36: its request would change nothing, because the upstream has made it."""
    await desk.opened(offer=OFFER)
    await desk.opened(signal=ASKED)
    before = await desk.names()
    with pytest.raises(NotYours):
        await desk.opened(signal=replace(ASKED, requested_by="shop"))
    assert before == await desk.names()


@pytest.mark.parametrize(
    "signal, parked", [(None, True), (DEFERRED, True), (ASKED, False), (RETRIED, False)]
)
async def test_a_person_or_a_request_lets_a_suspected_saga_run(
    desk: Desk, signal: Any, parked: bool
) -> None:
    """Rule 35: other code comes next, or mended code."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS)
    desk.code.suspicions["s-1"] = Suspicion(step="ask", deaths=DEATHS_MAX)
    await desk.opened(signal=signal)
    assert parked is ("parked" in await desk.names())


def span_of(desk: Desk, number: int) -> str:
    """The span id of that attempt."""
    return desk.observer.attempts[number][1].span_id


ENDED: dict[str, Any] = {
    "state": SagaState.COMPENSATED, "due_at": None, "answer_status": 410, "answer_body": b"{}"
}  # fmt: skip
UNDONE = (
    WAITS,
    ASKED,
    e.TurnedBack(at=NOW, reason="asked"),
    e.CompensationStarted(at=NOW, step="reserve", attempt=1),
    e.CompensationSucceeded(at=NOW, step="reserve"),
    e.Compensated(at=NOW),
)


async def test_a_suspected_saga_that_has_ended_is_not_parked(desk: Desk) -> None:
    """Nothing of it runs any more."""
    await desk.opened(offer=OFFER)
    await desk.happened(*UNDONE, **{**ENDED, "due_at": NOW})
    desk.code.suspicions["s-1"] = Suspicion(step="ask", deaths=DEATHS_MAX)
    await desk.opened()
    assert "recovered" == (await desk.names())[-1]


@pytest.mark.parametrize(
    "request_", [{}, {"offer": OFFER}, {"signal": ASKED}, {"signal": DEFERRED}]
)
async def test_a_saga_that_has_ended_is_answered_from_what_is_stored(
    desk: Desk, request_: dict[str, Any]
) -> None:
    """Rule 11: byte for byte, and its journal does not grow."""
    await desk.opened(offer=OFFER)
    await desk.happened(*UNDONE, **ENDED)
    before = await desk.row()
    stored = await desk.opened(**request_)
    assert stored.replayed and before == stored.row == await desk.row()
    assert [] == stored.transition.events
    assert isinstance(stored.transition, Transition) and stored.transition.rest_until is None


async def test_a_parked_saga_waits_though_it_is_offered_again(desk: Desk) -> None:
    """And goes on where its next action is due all the same: upstream is to be notified."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS, PARKED, parked="broken", parked_cause=ParkCause.DEFECT, due_at=None)
    assert (await desk.opened(offer=OFFER)).replayed
    await desk.happened(due_at=NOW)
    assert not (await desk.opened(offer=OFFER)).replayed


async def test_a_closed_saga_answers_by_its_row_alone(desk: Desk) -> None:
    """Its journal was dropped. A stranger gets no answer at all (rule 36)."""
    await desk.opened(offer=OFFER)
    await desk.happened(*UNDONE, **ENDED, closed_at=NOW)
    stored = await desk.opened(signal=ASKED)
    assert stored.replayed and {} == stored.transition.saga.steps
    with pytest.raises(NotYours, match="neither opened by shop nor handed on to it"):
        await desk.opened(signal=replace(ASKED, requested_by="shop"))
    with pytest.raises(NotAllowed):
        await desk.opened(signal=RETRIED)


async def test_a_request_of_a_stranger_does_nothing(desk: Desk) -> None:
    """Also where it would change nothing, and where it would only be written down (rule 36)."""
    await desk.opened(offer=OFFER)
    stranger = replace(ASKED, requested_by="shop")
    for deposit in (True, False):
        with pytest.raises(NotYours):
            await desk.opened(signal=stranger, deposit=deposit)
    await desk.happened(*UNDONE, **ENDED)
    with pytest.raises(NotYours):
        await desk.opened(signal=stranger)
    assert 3 + len(UNDONE) == len(await desk.events())


async def test_a_verb_that_does_not_fit_is_refused_with_the_reason(desk: Desk) -> None:
    await desk.opened(offer=OFFER)
    settle = e.Settled(at=NOW, actor="kim", why="ticket 7", step="reserve", landed=True)
    with pytest.raises(NotAllowed, match="an attempt is in flight"):
        await desk.opened(signal=settle, deposit=True)
    with pytest.raises(NotAllowed, match="'reserve' is not in doubt; in doubt: ask"):
        await desk.opened(signal=settle)
    assert FIRST == await desk.names()


async def test_an_order_is_not_done_twice_under_its_key(desk: Desk) -> None:
    """Decision 0092."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS)
    keyed = replace(RETRIED, act_key=ActKey(key="k-1", digest="d"))
    await desk.opened(signal=keyed)
    with pytest.raises(ActRepeated):
        await desk.opened(signal=keyed)


@pytest.mark.parametrize(
    "offered, journaled",
    [
        (OFFER, False),
        (Offer(context=CONTEXT, accepted=replace(ACCEPTED, deferred=True), late=False), True),
    ],
)
async def test_a_caller_that_does_not_wait_is_written_down_once(
    desk: Desk, offered: Offer, journaled: bool
) -> None:
    """Decision 0007: it has to be notified of a failure."""
    await desk.opened(offer=OFFER)
    for _ in range(2):
        await desk.opened(offer=offered)
    deferred = [each for each in await desk.events() if isinstance(each, e.AnswerDeferred)]
    assert ([DEFERRED] if journaled else []) == deferred


async def test_a_request_that_was_made_before_is_not_journaled_again(desk: Desk) -> None:
    """A neighbour asks until it is answered."""
    await desk.opened(offer=OFFER)
    for _ in range(3):
        await desk.opened(signal=ASKED)
    assert 1 == (await desk.names()).count("compensation_requested")


async def test_a_webhook_that_was_heard_before_is_not_journaled_again(desk: Desk) -> None:
    """An API repeats it until it is acknowledged, and beyond."""
    await desk.opened(offer=OFFER)
    await desk.happened(IN_DOUBT)
    desk.clock.shown = NOW + 9.0
    for heard in (e.WebhookFound(at=NOW, step="ask"), e.WebhookFound(at=NOW, step="ask")):
        await desk.opened(signal=heard)
    found = [each for each in await desk.events() if isinstance(each, e.WebhookFound)]
    assert [e.WebhookFound(at=NOW + 9.0, step="ask")] == found, "at the instant of its entry"
    await desk.opened(signal=e.WebhookRefused(at=NOW, step="ask", reason="no"))
    assert "webhook_refused" not in await desk.names()


# --- only written down ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signal, due_at", [(ASKED, NOW + 5.0), (RETRIED, NOW + 5.0), (DEFERRED, NOW + 77.0)]
)
async def test_a_request_that_is_only_written_down_is_due_at_once(
    desk: Desk, signal: Any, due_at: float
) -> None:
    """Under the epoch of the last run, for the next one to act on. A 202 changes no action."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS, due_at=NOW + 77.0)
    desk.clock.shown = NOW + 5.0
    stored = await desk.opened(signal=signal, deposit=True, mail=(7,))
    assert signal == (await desk.events())[-1] and 5 == len(await desk.events())
    row = await desk.row()
    assert (1, due_at) == (row.epoch, row.due_at)
    assert (1, (7,)) == desk.journal.writes[-1]
    assert not stored.replayed and stored.before is not None
    assert (await desk.opened(deposit=True)).replayed


async def restored(desk: Desk, *since: e.Event, **row: Any) -> None:
    """A saga of the backup, in a database that was put back since."""
    await desk.opened(offer=OFFER)
    await desk.happened(*since, **row)
    desk.database.identity = replace(NAMELESS, generation=2)


@pytest.mark.parametrize("deposit", [True, False])
async def test_a_verb_is_judged_by_what_a_restore_makes_of_the_saga(
    desk: Desk, deposit: bool
) -> None:
    """Decision 0050: the restore turns it back, and in doubt is what it had not begun by then."""
    await restored(desk, WAITS, due_at=NOW + 77.0)
    settle = e.Settled(at=NOW, actor="kim", why="ticket 7", step="ask", landed=False)
    await desk.opened(signal=settle, deposit=deposit)
    assert "settled" in await desk.names()


async def test_a_saga_of_the_backup_is_turned_back_by_its_first_run(desk: Desk) -> None:
    """Once: the next run finds the generation of the database in the journal."""
    await restored(desk, WAITS)
    await desk.opened()
    recovered = next(each for each in await desk.events() if isinstance(each, e.Recovered))
    assert 2 == recovered.generation
    asked = [each for each in await desk.events() if isinstance(each, e.CompensationRequested)]
    assert [(2, Requester.OPERATOR)] == [(each.generation, each.requester) for each in asked]
    await desk.opened()
    assert 1 == (await desk.names()).count("compensation_requested")


# --- another release -----------------------------------------------------------------------------


async def newer(desk: Desk, *since: e.Event) -> None:
    """A saga that a newer release accepted, of which nothing is in flight."""
    desk.release(shop(version=2, supersedes=shop()))
    accepted = Offer(context=CONTEXT, accepted=replace(ACCEPTED, version=2), late=False)
    await desk.opened(offer=accepted)
    await desk.happened(WAITS, *since, due_at=NOW + 77.0)
    desk.release(shop())


async def test_a_saga_of_a_newer_release_is_left_to_it(desk: Desk) -> None:
    """Rule 32: nothing of it is run or judged here, and its sender comes again."""
    await newer(desk)
    with pytest.raises(LeftToNewer, match="version 2 of stage 'shop' accepted it, a newer one"):
        await desk.opened(offer=OFFER)
    assert (await desk.opened()).replayed
    with pytest.raises(NotAllowed):
        await desk.opened(signal=RETRIED)
    assert "recovered" not in await desk.names()


async def test_a_request_to_compensate_a_saga_of_a_newer_release_is_kept(desk: Desk) -> None:
    """It acts on it as soon as it is back; here the saga is not due."""
    await newer(desk)
    with pytest.raises(NotYours):
        await desk.opened(signal=replace(ASKED, requested_by="shop"))
    stored = await desk.opened(signal=ASKED, mail=(7,))
    assert ASKED == (await desk.events())[-1]
    assert (1, (7,)) == desk.journal.writes[-1]
    assert NOW == (await desk.row()).due_at, "there it is due at once"
    assert isinstance(stored.transition, Transition)
    assert stored.replayed and stored.transition.rest_until is None
    assert stored.before is not None


async def test_a_saga_of_a_newer_release_that_was_answered_is_replayed(desk: Desk) -> None:
    await newer(desk)
    await desk.happened(answer_status=200, answer_body=b"{}")
    assert (await desk.opened(offer=OFFER)).replayed


UNREADABLE = e.StepInDoubt(at=NOW, step="ask")
"""Nothing was started: it cannot follow."""


async def unreadable(desk: Desk, **row: Any) -> None:
    """A saga whose journal holds what cannot follow."""
    await desk.store.transact(
        lambda unit: unit.insert(
            SagaRow(
                id="s-1",
                state=row.pop("state", SagaState.ACTIVE),
                epoch=4,
                length=2,
                accepted_at=NOW,
                updated_at=NOW,
                fingerprint=CONTEXT.fingerprint,
                envelope=CONTEXT.envelope_bytes,
                **row,
            ),
            [ACCEPTED, UNREADABLE],
        )
    )


WAITS_FOR_A_PERSON: dict[str, Any] = {
    "parked": "broken", "parked_cause": ParkCause.JOURNAL_MISMATCH
}  # fmt: skip


async def test_a_person_ends_a_saga_whose_journal_cannot_be_read(desk: Desk) -> None:
    """By its row alone: nothing else would. It is answered for good, and due no more."""
    await unreadable(desk, **WAITS_FOR_A_PERSON)
    stored = await desk.opened(signal=FORGOTTEN)
    row = await desk.row()
    assert (4, 3, 410, b"", None) == (
        row.epoch, row.length, row.answer_status, row.envelope, row.due_at,
    )  # fmt: skip
    assert [(4, ())] == desk.journal.writes
    assert isinstance(stored.transition, Transition) and stored.transition.rest_until is None
    (act,) = await desk.store.acts(9)
    assert "active, parked: journal_mismatch" == act.before


async def test_a_saga_that_is_not_parked_is_not_forgotten_unread(desk: Desk) -> None:
    await unreadable(desk, due_at=NOW)
    with pytest.raises(NotAllowed, match="still being worked on"):
        await desk.opened(signal=FORGOTTEN)


async def test_nobody_forgets_what_only_a_newer_release_can_read(desk: Desk) -> None:
    """It goes on with it."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS, PARKED, parked="broken", parked_cause=ParkCause.DEFECT, due_at=None)
    desk.codec.knows = False
    with pytest.raises(NewerJournal):
        await desk.opened(signal=FORGOTTEN)


@pytest.mark.parametrize(
    "request_, row, replayed",
    [
        ({}, {**ENDED}, True),
        ({"offer": OFFER}, {**ENDED}, True),
        ({"signal": DEFERRED}, {**ENDED}, True),
        ({"signal": ASKED}, {**ENDED}, True),
        ({"signal": ASKED}, {**ENDED, "state": SagaState.COMPLETED}, False),
        ({"signal": RETRIED}, {**ENDED}, False),
        ({}, {**ENDED, "due_at": NOW}, False),
        ({}, {**ENDED, "answer_status": None}, False),
    ],
)
async def test_a_journal_of_another_version_does_not_matter_where_the_row_answers(
    desk: Desk, request_: dict[str, Any], row: dict[str, Any], replayed: bool
) -> None:
    """The saga is over, and the request changes nothing of it."""
    await unreadable(desk, **row)
    if replayed:
        assert (await desk.opened(**request_)).replayed
    else:
        with pytest.raises(JournalMismatch):
            await desk.opened(**request_)


# --- sagas that left memory to wait --------------------------------------------------------------


async def test_a_saga_that_waited_goes_on_from_its_fold_with_its_baggage(desk: Desk) -> None:
    """Nothing was in flight, and so nothing of it was lost."""
    await desk.opened(offer=OFFER)
    await desk.happened(WAITS, due_at=NOW + 9.0)
    saga = desk.opening._interpreter.fold("s-1", await desk.store.entries("s-1"))
    row = replace(await desk.row(), length=saga.length, updated_at=saga.updated_at)
    desk.opening.folds._kept["s-1"] = Folded(saga=saga, baggage="tenant=8")
    assert saga.length == row.length
    stored = await desk.opened()
    assert () == stored.cut_off
    assert "tenant=8" == stored.context.trace.baggage


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_, awaited",
    [
        ({}, False),
        ({"offer": OFFER}, True),
        ({"barred": e.Tombstoned(at=NOW)}, True),
        ({"signal": ASKED}, True),
        ({"signal": ASKED, "mail": (7,)}, False),
    ],
)
def test_a_caller_that_waits_asks_again_while_the_database_is_away(
    request_: dict[str, Any], awaited: bool
) -> None:
    """Mail has no caller here: it is tried until it is written."""
    assert awaited is OpenRequest(saga_id="s-1", **request_).awaited


@pytest.mark.parametrize("fast", [True, False])
async def test_the_row_of_a_running_saga_has_the_instant_of_its_last_entry(
    desk: Desk, fast: bool
) -> None:
    """A function took long: the saga is due a minute later than that."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: AuthorSaga[Any]) -> None:
        desk.clock.shown += 600.0

    desk.release(stage, fast=fast)
    row = (await desk.opened(offer=OFFER)).row
    assert NOW + 600.0 == row.updated_at
    assert row.due_at is not None and row.due_at > NOW + 660.0
