"""A lost saga is written anew, once, from the words of its neighbours (rule 33)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.lost import Word
from stage.core.states import ParkCause, SagaState
from stage.demo.payment import payment
from stage.engine.clock import SystemClock
from stage.engine.reconcile import Reconciler
from stage.engine.saga.adoption import ADOPTED, NOT_HERE, Adoption, as_it_came
from stage.engine.saga.adoption import Testimony as Lost
from stage.engine.saga.context import context_of, fingerprint_of
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal
from stage.engine.saga.versions import Versions
from stage.ports.identity import Identity
from stage.ports.store import Act, LostSaga, SagaRow, Unit
from stage.store.codec import PLAIN
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver
from stage.wire.answers import render_ending
from stage.wire.envelope import Envelope, TrailEntry, format_instant
from stage.wire.outcome import Outcome
from stage.wire.shared import SharedPage, SharedSaga, Side

NOW = 1_795_401_000.0
ORDER = Envelope(
    saga_id="s-1",
    data={"amount": 1},
    trail=(
        TrailEntry(stage="shop", at="2026-11-23T02:29:57.120Z"),
        TrailEntry(stage="order", at="2026-11-23T02:29:58.120Z"),
    ),
)
UNDONE = Word(neighbour="order", from_upstream=True, said="compensated", nothing_stands=True)
SHIPPED = Word(neighbour="shipping", from_upstream=False, said="executed", nothing_stands=False)
ASKED = e.CompensationRequested(at=NOW - 5.0, requested_by="order", reason="changed my mind")
LOST = Lost(id="s-1", words=(SHIPPED,), envelope=ORDER)
FORMER = {"store": "order", "parcels": "shipping"}
"""The name of today by each name of before."""

AS_OF = NOW - 3600.0
IDENTITY = Identity(
    id="d", stage="payment", born_at=1.0, generation=2, restored_as_of=AS_OF, restored_at=NOW
)


@pytest.fixture
def adoption() -> Adoption:
    versions, observer = Versions(payment.bind(("shipping",))), NullObserver()
    interpreter = Interpreter(versions, observer, SystemClock())
    journal = Journal(versions, observer, render_ending)
    return Adoption(interpreter, journal, PLAIN, IDENTITY, lambda name: FORMER.get(name, name))


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.open()
    return store


async def written(
    adoption: Adoption, store: MemoryStore, lost: Lost, **by: str
) -> tuple[bool, SagaRow, list[e.Event]]:
    """Whether it was written, and its row and journal afterwards."""
    done = await store.transact(lambda unit: adoption.write(unit, lost, NOW, **by))
    row = await store.get("s-1")
    assert row is not None
    return done, row, [entry.event for entry in await store.entries("s-1")]


@pytest.mark.parametrize(
    "words, asked, may_stand",
    [
        ((), None, True),
        ((SHIPPED,), None, True),
        ((UNDONE, SHIPPED), None, True),
        ((UNDONE,), None, False),
        ((UNDONE,), ASKED, True),
        ((replace(UNDONE, from_upstream=False),), None, True),
    ],
)
def test_only_the_word_of_upstream_proves_that_nothing_stands(
    words: tuple[Word, ...], asked: e.CompensationRequested | None, may_stand: bool
) -> None:
    """And a request to compensate is carried out whatever the words are."""
    assert may_stand is Lost(id="s-1", words=words, asked=asked).may_stand


def test_its_upstream_is_in_its_envelope_or_among_the_neighbours_that_speak() -> None:
    assert "order" == LOST.upstream
    assert "order" == Lost(id="s-1", words=(SHIPPED, UNDONE)).upstream
    assert "" == Lost(id="s-1", words=(SHIPPED,)).upstream
    nameless = replace(ORDER, trail=())
    assert "" == Lost(id="s-1", words=(UNDONE,), envelope=nameless).upstream


async def test_a_lost_saga_waits_for_a_person_with_the_envelope_that_it_came_in(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Each step that leaves the process is in doubt, and it belongs to its upstream again."""
    done, row, events = await written(adoption, store, LOST)
    assert done
    accepted = events[0]
    assert isinstance(accepted, e.Accepted)
    assert ("order", 2, AS_OF) == (accepted.upstream, accepted.generation, accepted.at)
    assert ParkCause.LOST is row.parked_cause
    assert "shipping says executed" in row.parked
    assert ["charge", "forward:shipping"] == [
        each.step for each in events if isinstance(each, e.StepInDoubt)
    ]
    assert (1, len(events), fingerprint_of(ORDER)) == (row.epoch, row.length, row.fingerprint)
    assert ORDER == context_of(row, PLAIN).envelope


@pytest.mark.parametrize(
    "saga_id, known_at, accepted_at",
    [
        ("s-1", (NOW - 7.0, NOW - 9.0), NOW - 9.0),
        ("s-1", (NOW + 60.0,), NOW),
        ("s-1", (), AS_OF),
        ("01a20618-46c0-7000-8000-000000000000", (NOW,), AS_OF + 1_184.0),
        ("019ac000-0000-7000-8000-000000000000", (NOW,), AS_OF),
        ("s-1", (0.0, NOW - 9.0), AS_OF),
        ("s-1", (-62_135_596_800.0,), AS_OF),
    ],
    ids=[
        "neighbours",
        "a clock that is ahead",
        "nobody",
        "its id",
        "an id from long before",
        "a clock of 1970",
        "no instant at all",
    ],
)
def test_it_was_accepted_no_later_than_anybody_knows(
    saga_id: str, known_at: tuple[float, ...], accepted_at: float
) -> None:
    """A downstream whose database is younger must not say that it was never there."""
    lost = Lost(id=saga_id, known_at=known_at)
    assert accepted_at == lost.accepted_at(IDENTITY, NOW)


async def test_without_an_envelope_the_neighbour_that_sent_it_is_its_upstream(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Its payload is not known, and so any payload of that id is taken for its own."""
    sent = replace(UNDONE, said="in_progress", nothing_stands=False)
    _, row, _ = await written(adoption, store, Lost(id="s-1", words=(sent,)))
    envelope = context_of(row, PLAIN).envelope
    assert envelope is not None
    assert ({}, "order", "") == (envelope.data, envelope.upstream, row.fingerprint)
    assert "2026-11-23T01:30:00.000Z" == envelope.trail[0].at


async def test_a_saga_that_nobody_sent_has_no_upstream(
    adoption: Adoption, store: MemoryStore
) -> None:
    _, row, events = await written(adoption, store, Lost(id="s-1", words=(SHIPPED,)))
    envelope = context_of(row, PLAIN).envelope
    assert envelope is not None and () == envelope.trail
    assert isinstance(events[0], e.Accepted) and "" == events[0].upstream


async def test_a_saga_of_which_nothing_stands_is_a_tombstone(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Rule 9: no repeat of it runs. Nothing is kept of its payload."""
    _, row, events = await written(adoption, store, replace(LOST, words=(UNDONE,)))
    assert [e.Tombstoned] == list(map(type, events))
    assert (SagaState.COMPENSATED, b"", "") == (row.state, row.envelope, row.fingerprint)


async def test_a_request_that_came_meanwhile_is_carried_out(
    adoption: Adoption, store: MemoryStore
) -> None:
    """It was kept in a unit that found no saga, and is read in the one that writes it."""
    kept = LostSaga(saga_id="s-1", requested_by="shipping", reason="no room", asked_at=NOW - 9.0)
    await store.transact(lambda unit: unit.keep_lost(kept))
    _, row, events = await written(adoption, store, LOST)
    assert events[-1] == e.CompensationRequested(at=NOW, requested_by="shipping", reason="no room")
    assert "" == row.parked


async def test_a_request_of_a_caller_that_it_does_not_belong_to_waits_for_a_person(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Rule 36: another upstream asked while nobody here knew whose it is. It undoes nothing."""
    kept = LostSaga(saga_id="s-1", requested_by="billing", reason="mine", asked_at=NOW - 9.0)
    await store.transact(lambda unit: unit.keep_lost(kept))
    _, row, events = await written(adoption, store, LOST)
    assert isinstance(events[-1], e.Parked)
    assert ParkCause.LOST is row.parked_cause
    assert "billing asks to compensate it, and nothing proves that it is its own" in row.parked


@pytest.mark.parametrize(
    "upstream, asker, asked_by",
    [
        ("store", "order", "store"),
        ("order", "store", "order"),
        ("order", "parcels", "shipping"),
        ("order", "warehouse", ""),
    ],
)
async def test_a_renamed_neighbour_asks_under_its_name_of_either_time(
    adoption: Adoption, store: MemoryStore, upstream: str, asker: str, asked_by: str
) -> None:
    """It was taken for a stranger. The request gets the name that the saga has."""
    kept = LostSaga(saga_id="s-1", requested_by=asker, reason="no", asked_at=NOW - 9.0)
    await store.transact(lambda unit: unit.keep_lost(kept))
    word = Word(neighbour=upstream, from_upstream=True, said="executed", nothing_stands=False)
    opened = replace(ORDER, trail=(TrailEntry(stage=upstream, at=ORDER.trail[-1].at),))
    without = Lost(id="s-1", words=(word,))
    for lost in (without, replace(without, envelope=opened)):
        stored = adoption.asked_for(lost, kept, NOW)
        assert asked_by == ("" if stored.asked is None else stored.asked.requested_by)
        assert bool(stored.strangers) is not bool(asked_by)


async def test_where_there_is_one_upstream_a_saga_that_nobody_claims_is_its_own(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Nobody else can have opened it, and an orchestrator without an address lists none."""
    adoption._sole_upstream = "web"
    for name in ("web", "billing"):
        kept = LostSaga(saga_id="s-1", requested_by=name, reason="no", asked_at=NOW - 9.0)
        lost = adoption.asked_for(Lost(id="s-1", words=(SHIPPED,)), kept, NOW)
        assert (("web",) if name == "web" else (), name == "web") == (
            (lost.asked.requested_by,) if lost.asked else (),
            not lost.strangers,
        )
        stored = adoption.stored(lost, NOW)
        assert "web" == stored.transition.saga.upstream
        assert ("web",) == context_of(stored.row, PLAIN).trail
    claimed = Lost(id="s-1", words=(UNDONE, replace(UNDONE, neighbour="billing")))
    assert "" == adoption._opener(claimed)
    assert "order" == adoption._opener(LOST)


async def test_the_request_of_its_upstream_counts_behind_that_of_a_stranger(
    adoption: Adoption, store: MemoryStore
) -> None:
    async def keep(unit: Unit) -> None:
        for name, at in (("billing", NOW - 9.0), ("order", NOW - 8.0)):
            kept = LostSaga(saga_id="s-1", requested_by=name, reason=name, asked_at=at)
            await unit.keep_lost(kept)

    await store.transact(keep)
    _, _, events = await written(adoption, store, LOST)
    assert events[-1] == e.CompensationRequested(at=NOW, requested_by="order", reason="order")


async def test_only_a_configured_upstream_speaks_as_upstream(
    adoption: Adoption, store: MemoryStore
) -> None:
    """A downstream that says to be one proves by no word that nothing stands here."""
    reconciler = Reconciler(("payment",), store, Claims(), adoption, SystemClock())  # type: ignore[arg-type]
    found = await reconciler.ask(["order", "shipping"], 0.0)
    (lost,) = found.lost
    assert [True, False] == [word.from_upstream for word in lost.words]
    (alone,) = (await reconciler.ask(["shipping"], 0.0)).lost
    assert (True, "") == (alone.may_stand, alone.upstream)


async def test_a_request_about_a_saga_of_another_file_is_carried_out_nowhere_else(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Somebody asked at the wrong one: taken over here, a good charge would be refunded."""
    kept = LostSaga(saga_id="s-1", requested_by="order", reason="no room", asked_at=NOW - 9.0)
    await store.transact(lambda unit: unit.keep_lost(kept))

    async def belongs(_saga_id: str) -> bool:
        return False

    neighbours: Any = Claims()
    names = ("payment",)
    reconciler = Reconciler(names, store, neighbours, adoption, SystemClock(), belongs=belongs)
    found = await reconciler.ask(["order"], 0.0)
    assert ([], {"s-1"}) == (found.lost, found.elsewhere)


class Claims:
    """Neighbours that all say to be the upstream of one saga, of which nothing stands."""

    def name_of_today(self, peer: str) -> str:
        """See ports.neighbour.Neighbours."""
        return peer

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See ports.neighbour.Neighbours."""
        return (peer,)

    def is_upstream(self, peer: str) -> bool:
        """See ports.neighbour.Neighbours."""
        return peer == "order"

    async def get_shared(self, peer: str, asker: str, **_: Any) -> SharedPage:
        """See ports.neighbour.Neighbours."""
        at = format_instant(NOW)
        saga = SharedSaga(
            saga_id="s-1",
            side=Side.UPSTREAM,
            outcome=Outcome.COMPENSATED,
            accepted_at=at,
            updated_at=at,
            envelope=None,
        )
        return SharedPage(stage=peer, shared_with=asker, sagas=[saga])


async def test_the_first_request_that_is_known_counts(
    adoption: Adoption, store: MemoryStore
) -> None:
    kept = LostSaga(saga_id="s-1", requested_by="shipping", reason="no room", asked_at=NOW - 9.0)
    await store.transact(lambda unit: unit.keep_lost(kept))
    _, _, events = await written(adoption, store, replace(LOST, asked=ASKED))
    assert ASKED == events[-1]


async def test_a_saga_that_is_there_after_all_stays_as_it_is(
    adoption: Adoption, store: MemoryStore
) -> None:
    """Its upstream may have sent it again while the others were asked."""
    first, row, _ = await written(adoption, store, LOST)
    again, after, events = await written(
        adoption, store, replace(LOST, words=(UNDONE,)), actor="kim", reason="ticket 7"
    )
    assert (True, False) == (first, again)
    assert row == after and not isinstance(events[0], e.Tombstoned)
    assert [] == await store.acts(9)


async def test_the_audit_keeps_the_person_who_took_it_over(
    adoption: Adoption, store: MemoryStore
) -> None:
    """A reconciliation at the start is nobody's act."""
    await written(adoption, store, LOST, actor="kim", reason="ticket 7")
    (act,) = await store.acts(9)
    assert replace(act, number=0) == Act(
        at=NOW,
        actor="kim",
        act=ADOPTED,
        target="s-1",
        reason="ticket 7",
        before=NOT_HERE,
        after="active, parked: lost, waits at charge",
    )
    other = MemoryStore()
    await other.open()
    await written(adoption, other, LOST)
    assert [] == await other.acts(9)


def test_the_envelope_that_was_handed_on_is_taken_back_to_how_it_came() -> None:
    """Without our own addition and our own name; an envelope of before is left alone."""
    ours = TrailEntry(stage="payment", at="2026-11-23T02:30:00.000Z")
    handed_on = replace(
        ORDER, data={**ORDER.data, "payment": {"charge_id": "c-1"}}, trail=(*ORDER.trail, ours)
    )
    assert ORDER == as_it_came(handed_on, ("payments", "payment"))
    given: dict[str, Any] = {"payment": "the word of upstream"}
    assert replace(ORDER, data=given) == as_it_came(replace(ORDER, data=given), ("payment",))


async def test_nothing_is_written_where_the_unit_is_undone(
    adoption: Adoption, store: MemoryStore
) -> None:
    """The act and the saga go together."""

    async def fail(unit: Unit) -> None:
        assert await adoption.write(unit, LOST, NOW, actor="kim", reason="ticket 7")
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(fail)
    assert await store.get("s-1") is None
    assert [] == await store.acts(9)
