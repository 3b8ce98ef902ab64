"""The row that a transition leads to, what is written with it, and what is reported of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage import Saga as AuthorSaga
from stage import Stage
from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.commands import AttemptKind
from stage.core.place import TELL_STEP
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.engine.saga.context import context_with, fingerprint_of
from stage.engine.saga.cut_off import CutOff
from stage.engine.saga.interpreter import Outgoing, Transition
from stage.engine.saga.journal import RUNNING_SECONDS, Journal, Stored
from stage.engine.saga.versions import Versions
from stage.ports.observer import Attempt
from stage.ports.store import Filter, SagaRow, Term, Unit
from stage.store.codec import PLAIN
from stage.store.memory import MemoryStore
from stage.wire.answers import render_ending
from stage.wire.envelope import Envelope, TrailEntry
from stage.wire.outcome import Outcome
from stage.wire.problem import decode_problem
from tests.unit.engine.given import NOW, TRACE, NotedSpan, Noting

ORDER = Envelope(
    saga_id="s-1",
    data={"number": "o-1"},
    trail=(TrailEntry(stage="order", at="2026-11-23T02:29:58.120Z"),),
)
CONTEXT = context_with(ORDER, PLAIN.encode_envelope(ORDER), fingerprint_of(ORDER), TRACE)
WAITING = StepState(phase=Phase.WAITING, order=0, due=NOW + 5.0)
SAGA = Saga(
    id="s-1",
    state=SagaState.ACTIVE,
    epoch=3,
    length=7,
    accepted_at=NOW - 9.0,
    updated_at=NOW,
    deadline=NOW + 60.0,
    version=2,
    upstream="order",
    steps={"ask": WAITING},
)


def shop(**lineage: Any) -> Stage[dict[str, Any], None]:
    """A stage that calls an API, and finds its sagas by a number."""
    stage: Stage[dict[str, Any], None] = Stage(
        "shop", accepts=dict[str, Any], indexed={"number": "number"}, **lineage
    )

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Any, saga: AuthorSaga[Any]) -> None:
        """Nothing to ask."""

    return stage


VERSIONS = Versions(shop(version=2, supersedes=shop()).bind(("shipping",)))
PLAN = VERSIONS.newest.plan
OUTGOING = Outgoing(do=None, span=None, key="")  # type: ignore[arg-type]


@pytest.fixture
def observer() -> Noting:
    return Noting()


@pytest.fixture
def journal(observer: Noting) -> Journal:
    return Journal(VERSIONS, observer, render_ending)


def came_to(
    saga: Saga, *events: e.Event, rest_until: float | None = None, outgoing: bool = False
) -> Transition:
    """A transition to that state."""
    return Transition(
        plan=PLAN,
        saga=saga,
        events=list(events),
        outgoing=[OUTGOING] if outgoing else [],
        rest_until=rest_until,
    )


def test_the_row_has_all_that_finds_the_saga_runs_it_and_answers_for_it(journal: Journal) -> None:
    """Each column says what the state and the context say."""
    saga = replace(SAGA, parked="no room", parked_cause=ParkCause.IN_DOUBT)
    assert journal.row(came_to(saga), CONTEXT, running=False) == SagaRow(
        id="s-1",
        state=SagaState.ACTIVE,
        epoch=3,
        length=7,
        accepted_at=NOW - 9.0,
        updated_at=NOW,
        fingerprint=fingerprint_of(ORDER),
        version=2,
        step="ask",
        peer="externals.psp",
        parked="no room",
        parked_cause=ParkCause.IN_DOUBT,
        due_at=None,
        deadline=NOW + 60.0,
        envelope=CONTEXT.envelope_bytes,
        traceparent=TRACE.traceparent,
        tracestate="v=1",
    )


@pytest.mark.parametrize("updated_at", [NOW, NOW + 0.5, NOW + 30.0, NOW + 59.999])
def test_a_running_saga_is_due_after_a_minute_and_before_two(
    journal: Journal, updated_at: float
) -> None:
    """A replica that lost its process is taken over then; most saves leave the instant as it is."""
    saga = replace(SAGA, updated_at=updated_at)
    for transition in (came_to(saga, outgoing=True), came_to(saga, rest_until=None)):
        due_at = journal.store(transition, CONTEXT, before=None).row.due_at
        assert due_at is not None
        assert RUNNING_SECONDS < due_at - updated_at <= 2 * RUNNING_SECONDS
        assert 0.0 == due_at % RUNNING_SECONDS


ENDED = replace(SAGA, state=SagaState.COMPENSATED, steps={})


@pytest.mark.parametrize(
    "saga, running, due",
    [
        (SAGA, False, True),
        (SAGA, True, False),
        (replace(SAGA, parked="x"), False, None),
        (replace(SAGA, parked="x"), True, False),
        (replace(SAGA, forgotten=True), False, None),
        (replace(SAGA, forgotten=True), True, None),
        (ENDED, False, None),
        (replace(ENDED, tell=Tell.DUE), False, True),
        (replace(ENDED, tell=Tell.DUE, parked="x"), False, True),
        (replace(ENDED, tell=Tell.IN_FLIGHT), True, False),
        (replace(ENDED, tell=Tell.DELIVERED), False, None),
        (replace(ENDED, tell=Tell.REFUSED, parked="x"), False, None),
    ],
)
def test_a_saga_is_due_when_its_next_action_is(
    journal: Journal, saga: Saga, running: bool, due: bool | None
) -> None:
    """True: at the instant until which it rests. None: it waits for a person, or is over."""
    made = came_to(saga, rest_until=NOW + 5.0)
    due_at = journal.store(made, CONTEXT, before=None, in_flight=running).row.due_at
    if due is None:
        assert due_at is None
    else:
        assert due is (due_at == NOW + 5.0)


def test_a_saga_that_has_ended_has_the_answer_that_every_duplicate_gets(journal: Journal) -> None:
    row = journal.store(came_to(ENDED), CONTEXT, before=None).row
    problem = decode_problem(row.answer_body)
    assert problem is not None
    assert (409, Outcome.NOT_EXECUTED, "s-1") == (
        row.answer_status,
        problem.outcome,
        problem.saga_id,
    )
    unfinished = journal.store(came_to(SAGA), CONTEXT, before=None).row
    assert (None, b"") == (unfinished.answer_status, unfinished.answer_body)


def test_the_answer_holds_the_output_that_downstream_got(journal: Journal) -> None:
    """The author's function is not asked again."""
    done = came_to(replace(SAGA, state=SagaState.COMPLETED, steps={}))
    done.output = msgspec.Raw(b'{"id":"c-1"}')
    body = journal.store(done, CONTEXT, before=None).row.answer_body
    assert {"shop": {"id": "c-1"}} == msgspec.json.decode(body)["data"]


BEFORE = SagaRow(
    id="s-1",
    state=SagaState.COMPLETED,
    epoch=3,
    length=6,
    accepted_at=NOW - 9.0,
    updated_at=NOW - 1.0,
    answer_status=200,
    answer_body=b"as it was answered",
)


def test_a_forgotten_saga_loses_its_payload_and_keeps_the_yes_that_was_given(
    journal: Journal,
) -> None:
    """Decision 0028. Of any other one the answer says from now on that it was given up."""
    completed = replace(SAGA, state=SagaState.COMPLETED, forgotten=True, steps={})
    row = journal.store(came_to(completed), CONTEXT, before=BEFORE).row
    assert (200, b"as it was answered", b"") == (row.answer_status, row.answer_body, row.envelope)
    failed = replace(completed, state=SagaState.FAILED_TO_COMPENSATE)
    row = journal.store(came_to(failed), CONTEXT, before=replace(BEFORE, answer_status=500)).row
    assert (410, b"") == (row.answer_status, row.envelope)
    active = journal.store(came_to(replace(SAGA, forgotten=True)), CONTEXT, before=None).row
    assert 410 == active.answer_status


def test_a_completed_saga_that_never_had_an_answer_gets_one_when_it_is_forgotten(
    journal: Journal,
) -> None:
    completed = replace(SAGA, state=SagaState.COMPLETED, forgotten=True, steps={})
    for before in (None, replace(BEFORE, answer_status=None)):
        row = journal.store(came_to(completed), CONTEXT, before=before).row
        assert 200 == row.answer_status and b"executed" in row.answer_body
    # A saga that is not forgotten is answered with what is added now.
    row = journal.store(came_to(replace(completed, forgotten=False)), CONTEXT, before=BEFORE).row
    assert b"as it was" not in row.answer_body


def test_a_parked_saga_stays_as_it_is_and_is_due_no_more(journal: Journal) -> None:
    """Its journal may be unreadable: nothing of it is folded. A lone surrogate is not stored."""
    before = journal.row(came_to(SAGA), CONTEXT, running=True)
    stored = journal.park(before, ParkCause.DEFECT, "caf\udce9", NOW + 1.0)
    assert stored.row == replace(
        before,
        parked="caf?",
        parked_cause=ParkCause.DEFECT,
        due_at=None,
        length=8,
        updated_at=NOW + 1.0,
    )
    assert [e.Parked(at=NOW + 1.0, cause=ParkCause.DEFECT, reason="caf?")] == (
        stored.transition.events
    )
    assert (CONTEXT.envelope_bytes, CONTEXT.fingerprint) == (
        stored.context.envelope_bytes,
        stored.context.fingerprint,
    )
    assert replace(TRACE, baggage="") == stored.context.trace
    assert isinstance(stored.transition, Transition)
    assert ("caf?", 8, PLAN) == (
        stored.transition.saga.parked, stored.transition.saga.length, stored.transition.plan,
    )  # fmt: skip


# --- written -------------------------------------------------------------------------------------


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.open()
    return store


async def new(journal: Journal, store: MemoryStore) -> Stored:
    """A saga that is in the database."""
    first = replace(SAGA, length=1, epoch=1)
    stored = journal.store(came_to(first, e.Accepted(at=NOW)), CONTEXT, before=None)
    await store.transact(lambda unit: journal.write(unit, stored, epoch=None))
    return stored


async def found(store: MemoryStore) -> list[str]:
    """The sagas that are found by the number."""
    return [row.id for row in await store.page(Filter(term=Term("number", "o-1")))]


async def test_a_new_saga_is_found_by_its_numbers_until_it_is_forgotten(
    journal: Journal, store: MemoryStore
) -> None:
    stored = await new(journal, store)
    assert ["s-1"] == await found(store)
    forgotten = e.Forgotten(at=NOW, actor="kim", why="ticket 7")
    for saga, event in (
        (replace(SAGA, length=2, epoch=1), e.AnswerDeferred(at=NOW)),
        (replace(SAGA, length=3, epoch=1, forgotten=True), forgotten),
    ):
        assert ["s-1"] == await found(store)
        stored = journal.store(came_to(saga, event), CONTEXT, before=stored.row)
        await store.transact(lambda unit, s=stored: journal.write(unit, s, epoch=1))  # type: ignore[misc]
    assert [] == await found(store)


async def test_an_act_is_kept_with_its_key_and_with_how_the_saga_stood(
    journal: Journal, store: MemoryStore
) -> None:
    """In the unit that journals it."""
    before = (await new(journal, store)).row
    key = ActKey(key="k-1", digest="d")
    saga = replace(SAGA, length=3, epoch=1, parked="x", parked_cause=ParkCause.IN_DOUBT)
    retried = e.Retried(at=NOW + 1.0, actor="kim", why="ticket 7", act_key=key)
    plain = e.Retried(at=NOW + 2.0, actor="lee", why="ticket 8")
    stored = journal.store(came_to(saga, retried, plain), CONTEXT, before=before)
    await store.transact(lambda unit: journal.write(unit, stored, epoch=1))
    second, first = await store.acts(9)
    assert ("kim", "lee") == (first.actor, second.actor)
    assert "active, waits at ask" == first.before
    assert "active, parked: in_doubt, waits at ask" == first.after
    kept = await store.transact(lambda unit: unit.act_under(key))
    assert kept is not None and ("d", NOW + 1.0) == (kept.digest, kept.at)


async def test_the_mail_that_a_unit_took_in_is_received_in_it(
    journal: Journal, store: MemoryStore
) -> None:
    """Otherwise the other replica's request would be journaled twice."""
    stored, received = await new(journal, store), list[int]()

    class Counted:
        """A unit that notes the mail."""

        def __init__(self, unit: Unit) -> None:
            self._unit = unit

        async def save(self, *row: Any, epoch: int, before: SagaRow | None = None) -> None:
            assert stored.row == before, "only what differs from it has to be written"
            await self._unit.save(*row, epoch=epoch, before=before)

        async def received(self, mail: list[int]) -> None:
            received.extend(mail)

    async def write(unit: Unit) -> None:
        for mail in ((), (7, 9)):
            done = came_to(replace(SAGA, length=1, epoch=1))
            again = journal.store(done, CONTEXT, before=stored.row)
            await journal.write(Counted(unit), again, epoch=1, mail=mail)  # type: ignore[arg-type]

    await store.transact(write)
    assert [7, 9] == received


# --- reported ------------------------------------------------------------------------------------


def test_each_event_is_reported_once_with_the_trace_of_its_saga(
    journal: Journal, observer: Noting
) -> None:
    """And the spans of the attempts that ended in the unit end with their ends."""
    done, span = e.StepSucceeded(at=NOW, step="ask"), NotedSpan("1" * 16)
    transition = came_to(SAGA, done, e.Completed(at=NOW))
    transition.ended = [(span, done)]
    journal.report(journal.store(transition, CONTEXT, before=None))
    assert [("step_succeeded", "", NOW)] == span.ends
    assert [
        ("s-1", "shop", event, TRACE, NOW - 9.0) for event in (done, e.Completed(at=NOW))
    ] == observer.events


def test_an_attempt_whose_process_was_lost_is_reported_under_the_id_that_it_had(
    journal: Journal, observer: Noting
) -> None:
    """Rule 23. It ended when the saga was taken over, at the latest."""
    cut_off = (
        CutOff(
            step="ask", kind=AttemptKind.PROBE, attempt=2, span="1" * 16, began=NOW - 5.0,
            links=("2" * 16,),
        ),
        CutOff(step="", kind=AttemptKind.TELL, attempt=1, span="3" * 16, began=NOW - 4.0),
    )  # fmt: skip
    stored = journal.store(came_to(SAGA, e.Recovered(at=NOW, epoch=3)), CONTEXT, before=None)
    journal.report(replace(stored, cut_off=cut_off))
    asked = Attempt(
        saga_id="s-1",
        stage="shop",
        step="ask",
        kind=AttemptKind.PROBE,
        number=2,
        peer="psp",
        parent=TRACE,
        links=("2" * 16,),
    )
    notified = replace(
        asked, step=TELL_STEP, kind=AttemptKind.TELL, number=1, peer="order", links=()
    )
    assert [
        (asked, "1" * 16, NOW - 5.0, NOW), (notified, "3" * 16, NOW - 4.0, NOW),
    ] == observer.lost  # fmt: skip


def test_an_attempt_of_a_renamed_step_is_reported_with_the_peer_of_today(observer: Noting) -> None:
    """Its journal has the former name (rule 32)."""
    stage: Stage[dict[str, Any], None] = Stage(
        "shop", accepts=dict[str, Any], renamed={"quote": "ask"}
    )

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Any, saga: AuthorSaga[Any]) -> None:
        """Nothing to ask."""

    versions = Versions(stage.bind())
    journal = Journal(versions, observer, render_ending)
    transition = came_to(SAGA, e.Recovered(at=NOW, epoch=3))
    transition.plan = versions.newest.plan
    stored = journal.store(transition, CONTEXT, before=None)
    lost = CutOff(step="quote", kind=AttemptKind.EXECUTE, attempt=1, span="1" * 16, began=NOW)
    journal.report(replace(stored, cut_off=(lost,)))
    assert [("quote", "psp")] == [(each.step, each.peer) for each, *_ in observer.lost]


def test_a_span_and_the_row_of_before_go_with_what_is_stored(journal: Journal) -> None:
    """The save writes only what differs from that row."""
    span = NotedSpan("1" * 16)
    stored = journal.store(came_to(SAGA), CONTEXT, before=BEFORE, span=span)
    assert span is stored.span and BEFORE is stored.before
    assert CONTEXT is stored.context and not stored.replayed and () == stored.cut_off
