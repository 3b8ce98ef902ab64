"""The part of the law of ports/store.py that operators see with, held against every store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core.act_key import ACT_KEY_SECONDS_MAX, ActKey, KeptAct
from stage.core.pause import Pause, Way
from stage.core.place import NOWHERE, Place
from stage.core.states import ParkCause, SagaState
from stage.core.sweep import Sweep, SweepEnd, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.ports.store import TRACE_TERM, Act, Filter, Group, Store, Term, Unit
from stage.store.memory import MemoryStore
from stage.store.sealed import SealedCodec, new_key_line, parse_keys
from tests.unit.store.given import AT, accepted, inserting, row

CHARGE = Place("charge", "externals.psp")
FORWARD = Place("forward:shipping", "downstreams.shipping")
DOUBT = ParkCause.IN_DOUBT

WAITING = (
    ("a", SagaState.ACTIVE, None, NOWHERE, 0),
    ("b", SagaState.ACTIVE, None, CHARGE, 1),
    ("c", SagaState.ACTIVE, DOUBT, CHARGE, 2),
    ("d", SagaState.ACTIVE, DOUBT, CHARGE, 3),
    ("e", SagaState.COMPENSATING, None, FORWARD, 4),
    ("f", SagaState.FAILED_TO_COMPENSATE, ParkCause.DEFECT, NOWHERE, 5),
)


async def fill(store: Store) -> None:
    """One saga that goes on, and five that wait or are parked."""
    for saga_id, state, cause, place, age in WAITING:
        given = row(
            saga_id, state=state, parked="why" if cause else "", parked_cause=cause, place=place
        )
        await store.transact(inserting(saga_id, replace(given, updated_at=AT + age)))


async def test_the_place_of_a_saga_is_read_back(store: Store) -> None:
    """Step and peer, from a row and from a page."""
    await fill(store)
    found = await store.get("b")
    assert found is not None
    assert CHARGE == (found.step, found.peer)
    assert [CHARGE, CHARGE] == [(each.step, each.peer) for each in await store.page(PARKED)][:2]


PARKED = Filter(parked=True)


@pytest.mark.parametrize(
    "which, ids",
    [
        (PARKED, "cdf"),
        (Filter(cause=DOUBT), "cd"),
        (Filter(steps=("charge",)), "bcd"),
        (Filter(steps=("charge",), parked=False), "b"),
        (Filter(peers=("downstreams.shipping",)), "e"),
        (Filter(peers=("downstreams.parcels", "downstreams.shipping")), "e"),
        (Filter(peers=("externals.psp", "downstreams.shipping"), changed_from=AT + 2), "cde"),
        (Filter(peers=("externals.psp",), cause=ParkCause.DEFECT), ""),
        (Filter(peers=("externals.psp",), changed_from=AT + 2), "cd"),
        (Filter(parked=True, changed_before=AT + 5), "cd"),
        (Filter(changed_before=AT + 2), "ab"),
        (Filter(changed_from=AT + 3), "def"),
        (Filter(changed_from=AT + 1, changed_before=AT + 5, after="b", limit=2), "cd"),
        (Filter(states=(SagaState.ACTIVE,), changed_from=AT + 1, changed_before=AT + 3), "bc"),
        (Filter(cause=DOUBT, after="c"), "d"),
        (Filter(steps=("charge",), limit=1), "b"),
        (Filter(steps=("",)), "f"),
        (Filter(peers=("",), states=(SagaState.ACTIVE,)), ""),
    ],
)
async def test_lists_are_narrowed_by_place_cause_and_age(
    store: Store, which: Filter, ids: str
) -> None:
    """Every member narrows the list, alone and together."""
    await fill(store)
    assert ids == "".join(found.id for found in await store.page(which))


async def test_sagas_that_wait_are_counted_by_their_place(store: Store) -> None:
    """Each group with its oldest; a saga that goes on is in none."""
    await fill(store)
    expected = [
        (None, "charge", SagaState.ACTIVE, 1, AT + 1),
        (None, "forward:shipping", SagaState.COMPENSATING, 1, AT + 4),
        (ParkCause.DEFECT, "", SagaState.FAILED_TO_COMPENSATE, 1, AT + 5),
        (DOUBT, "charge", SagaState.ACTIVE, 2, AT + 2),
    ]
    found = await store.groups()
    assert expected == [(g.cause, g.step, g.state, g.sagas, g.oldest_at) for g in found]
    assert isinstance(found[0], Group)


def numbered(saga_id: str, *terms: Term) -> Callable[[Unit], Awaitable[None]]:
    """A unit that inserts an ended saga with its terms."""

    async def unit(unit: Unit) -> None:
        await unit.insert(row(saga_id, state=SagaState.COMPLETED), accepted(), terms)

    return unit


async def test_a_saga_is_found_by_its_terms(store: Store) -> None:
    """By name and value together; several sagas may have one number."""
    order = Term("order", "o-1")
    await store.transact(numbered("a", order, Term(TRACE_TERM, "f" * 32)))
    await store.transact(numbered("b", order))
    await store.transact(numbered("c", Term("customer", "o-1")))

    async def ids(term: Term, after: str = "") -> list[str]:
        return [found.id for found in await store.page(Filter(term=term, after=after))]

    assert ["a", "b"] == await ids(order)
    assert ["b"] == await ids(order, after="a")
    assert ["a"] == await ids(Term(TRACE_TERM, "f" * 32))
    assert [] == await ids(Term("order", "o-2"))


async def test_a_closed_saga_is_not_found_by_its_terms(store: Store) -> None:
    """A business number is part of the payload, and is kept no longer."""
    order = Term("order", "o-1")
    await store.transact(numbered("a", order))
    assert 1 == await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 2, 10))
    assert [] == await store.page(Filter(term=order))


async def test_a_forgotten_saga_is_not_found_by_its_terms(store: Store) -> None:
    """As for one that is closed; a unit that fails takes nothing away."""
    order = Term("order", "o-1")
    await store.transact(numbered("a", order))

    async def failing(unit: Unit) -> None:
        await unit.drop_terms("a")
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(failing)
    assert ["a"] == [found.id for found in await store.page(Filter(term=order))]
    await store.transact(lambda unit: unit.drop_terms("a"))
    assert [] == await store.page(Filter(term=order))


def act(number: int, target: str) -> Act:
    """An act with every member filled."""
    return Act(
        number=number,
        at=AT + number,
        actor="kim",
        act="retried",
        target=target,
        reason="psp is back",
        before="active, parked: in_doubt",
        after="active",
    )


async def test_the_audit_outlives_the_journal(store: Store) -> None:
    """An act is read back as it was kept, also when the saga that it was done to is closed."""
    await store.transact(inserting("a", row("a", state=SagaState.COMPLETED)))
    await store.transact(lambda unit: unit.keep_act(act(0, "a")))
    await store.transact(lambda unit: unit.close_ended(AT + 2, AT + 2, 10))
    assert [] == await store.entries("a")
    (kept,) = await store.acts(10)
    assert replace(act(0, "a"), number=kept.number) == kept


async def test_the_audit_is_read_from_its_end(store: Store) -> None:
    """The newest first, page by page, and of one target alone."""

    async def keep_all(unit: Unit) -> None:
        for number, target in enumerate("abab", start=1):
            await unit.keep_act(act(number, target))

    await store.transact(keep_all)
    newest = await store.acts(3)
    assert ["b", "a", "b"] == [each.target for each in newest]
    assert ["a"] == [each.target for each in await store.acts(3, before=newest[-1].number)]
    assert [AT + 3, AT + 1] == [each.at for each in await store.acts(9, target="a")]


async def test_an_act_is_kept_with_its_unit_or_not_at_all(store: Store) -> None:
    """A unit that raises leaves no trace in the audit."""

    async def failing(unit: Unit) -> None:
        await unit.keep_act(act(0, "a"))
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(failing)
    assert [] == await store.acts(10)


async def kept(store: Store, key: str, digest: str = "") -> KeptAct | None:
    """The result that is kept under a key: the same within a unit and outside."""
    asked = ActKey(key=key, digest=digest)
    found = await store.act_under(asked)
    assert found == await store.transact(lambda unit: unit.act_under(asked))
    return found


async def keep(store: Store, key: ActKey, at: float = AT, **more: Any) -> None:
    """Keep a key in a unit of its own."""
    await store.transact(lambda unit: unit.keep_act_key(key, at, **more))


async def test_a_key_of_an_act_is_kept_with_its_unit(store: Store) -> None:
    """The first under a key stays; a unit that raises keeps none, and a commit keeps all of it."""

    async def failing(unit: Unit) -> None:
        await unit.keep_act_key(ActKey(key="k-1", digest="d-1"), AT)
        assert await unit.act_under(ActKey(key="k-1", digest="d-1")) is not None
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(failing)
    assert await kept(store, "k-1") is None
    await keep(store, ActKey(key="k-1", digest="d-1"), refused="not now")
    await keep(store, ActKey(key="k-1", digest="d-2"), sweep=7)
    assert KeptAct(digest="d-1", at=AT, refused="not now") == await kept(store, "k-1")
    await keep(store, ActKey(key="k-2", digest="d-2"), sweep=7)
    assert KeptAct(digest="d-2", at=AT, sweep=7) == await kept(store, "k-2")
    assert await kept(store, "k-3") is None


async def test_an_order_is_known_by_its_key_alone_once_digests_are_dropped(store: Store) -> None:
    """As an erasure drops them, all or none."""
    await keep(store, ActKey(key="k-1", digest="d-1"), sweep=7)
    another = KeptAct(digest="d-1", at=AT, sweep=7)
    same = replace(another, digest="d-2")

    async def failing(unit: Unit) -> None:
        await unit.drop_digests()
        assert same == await unit.act_under(ActKey(key="k-1", digest="d-2"))
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(failing)
    assert another == await kept(store, "k-1", "d-2")
    await store.transact(lambda unit: unit.drop_digests())
    assert same == await kept(store, "k-1", "d-2")
    await keep(store, ActKey(key="k-2", digest="d-1"))
    assert KeptAct(digest="d-1", at=AT) == await kept(store, "k-2", "d-2")


async def test_a_key_of_an_act_goes_after_a_week(store: Store) -> None:
    """No copy is under way any more: the next key takes it along, unless its unit fails."""
    late, third = AT + ACT_KEY_SECONDS_MAX, ActKey(key="k-3", digest="d")
    await keep(store, ActKey(key="k-1", digest="d"))
    await keep(store, ActKey(key="k-2", digest="d"), late)
    assert await kept(store, "k-1") is not None

    async def failing(unit: Unit) -> None:
        await unit.keep_act_key(third, late + 1.0)
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(failing)
    assert await kept(store, "k-1") is not None
    await keep(store, third, late + 1.0)
    assert await kept(store, "k-1") is None
    assert await kept(store, "k-2") is not None and await kept(store, "k-3") is not None


async def test_an_encrypted_number_is_found_and_not_read() -> None:
    """Under the key of today and under older ones, as long as the file holds them."""
    old, new = new_key_line(), new_key_line()
    order = Term("order", "o-1")
    store = MemoryStore(codec=SealedCodec(parse_keys(old)))
    await store.open()
    await store.transact(numbered("a", order, Term(TRACE_TERM, "f" * 32)))
    (kept, trace) = store._database.terms["a"]
    assert "o-1" not in kept.value
    assert trace == Term(TRACE_TERM, "f" * 32)
    store._codec = SealedCodec(parse_keys(f"{new}\n{old}"))
    assert ["a"] == [found.id for found in await store.page(Filter(term=order))]
    store._codec = SealedCodec(parse_keys(new))
    assert [] == await store.page(Filter(term=order))
    await store.close()


async def test_a_pause_is_read_back_until_it_is_dropped(store: Store) -> None:
    """One for each target and way; a later one takes its place."""

    def pause(way: Way | None, until: float) -> Pause:
        return Pause(
            target="externals.psp", way=way, at=AT, until=until, actor="kim", reason="their outage"
        )

    for each in (pause(None, AT + 1), pause(Way.BACKWARD, AT + 2), pause(None, AT + 3)):
        await store.transact(partial(put, each))
    assert [pause(None, AT + 3), pause(Way.BACKWARD, AT + 2)] == await store.pauses()
    for put_by, dropped in ((AT - 0.001, False), (AT, True), (AT, False)):
        ended = partial(end, put_by)
        assert dropped is await store.transact(ended)
    assert [pause(Way.BACKWARD, AT + 2)] == await store.pauses()


async def end(put_by: float, unit: Unit) -> bool:
    """Drop the pause of both ways, if it was put by then."""
    return await unit.drop_pause("externals.psp", None, put_by)


async def put(pause: Pause, unit: Unit) -> None:
    """Write one pause."""
    await unit.put_pause(pause)


def sweep(**changes: Any) -> Sweep:
    """A sweep with every member filled."""
    given = Sweep(
        at=AT, actor="kim", verb=SweepVerb.RESOLVE, reason="by hand", step="charge",
        where="3 sagas by id", rate_per_second=2.5,
    )  # fmt: skip
    return replace(given, **changes)


async def test_a_sweep_counts_the_sagas_that_it_is_through_with(store: Store) -> None:
    """Its list is that of its beginning, in the order of the ids."""
    number = await store.transact(lambda unit: unit.begin_sweep(sweep(), ["c", "a", "b"]))
    second = await store.transact(lambda unit: unit.begin_sweep(sweep(), ["a"]))
    assert number < second
    assert [sweep(number=number, pending=3)] == await store.sweeps(9, number)
    assert [("a", ""), ("b", "")] == await store.sweep_sagas(number, SweepEnd.PENDING, 2)

    async def unit(unit: Unit) -> None:
        await unit.end_sweep_saga(number, "a", SweepEnd.DONE)
        await unit.end_sweep_saga(number, "b", SweepEnd.REFUSED, "nothing of it waits")
        await unit.set_sweep(number, SweepState.STOPPED)

    await store.transact(unit)
    found = await store.sweeps(9)
    stopped = sweep(number=number, state=SweepState.STOPPED, pending=1, done=1, refused=1)
    assert [sweep(number=second, pending=1), stopped] == found
    refused = await store.sweep_sagas(number, SweepEnd.REFUSED, 9)
    assert [("b", "nothing of it waits")] == refused


async def test_a_sweep_that_goes_on_is_found_behind_all_that_are_over(store: Store) -> None:
    """A stopped erasure too, until the audit says that no bytes are left, or nothing any more."""
    running, done, stopped, bare = [await store.transact(partial(begun, verb)) for verb in ENDING]

    async def unit(unit: Unit) -> None:
        for number in (stopped, bare):
            await unit.set_sweep(number, SweepState.STOPPED)
        await unit.set_sweep(done, SweepState.DONE)
        await unit.end_sweep_saga(stopped, "a", SweepEnd.DONE)
        await unit.keep_act(of_sweep("sweep", stopped))

    await store.transact(unit)
    found = await store.unfinished_sweeps(9)
    assert [(running, 1), (stopped, 0)] == [(each.number, each.pending) for each in found]
    assert [running] == [each.number for each in await store.unfinished_sweeps(1)]
    await store.transact(lambda unit: unit.keep_act(of_sweep("scrubbed", stopped)))
    assert [running] == [each.number for each in await store.unfinished_sweeps(9)]
    await store.transact(lambda unit: unit.keep_act(of_sweep("sweep", stopped)))
    assert [running, stopped] == [each.number for each in await store.unfinished_sweeps(9)]
    await store.transact(lambda unit: unit.drop_acts(9e9, 9))
    assert [running] == [each.number for each in await store.unfinished_sweeps(9)]


def of_sweep(word: str, number: int) -> Act:
    """An act on a sweep."""
    return replace(act(1, f"sweep {number}"), act=word)


ENDING = (SweepVerb.RETRY, SweepVerb.RETRY, SweepVerb.ERASE, SweepVerb.ERASE)


async def begun(verb: SweepVerb, unit: Unit) -> int:
    """Begin a sweep of one saga."""
    return await unit.begin_sweep(sweep(verb=verb), ["a"])


async def test_a_sweep_begins_with_its_unit_or_not_at_all(store: Store) -> None:
    """Neither it nor any of its sagas is there when the unit fails."""

    async def failing(unit: Unit) -> None:
        await unit.begin_sweep(sweep(), ["a"])
        raise LookupError

    with pytest.raises(LookupError):
        await store.transact(failing)
    assert [] == await store.sweeps(9)
    number = await store.transact(lambda unit: unit.begin_sweep(sweep(), ["b"]))
    assert [("b", "")] == await store.sweep_sagas(number, SweepEnd.PENDING, 9)


async def test_the_answer_of_a_neighbour_is_kept_once_a_generation(store: Store) -> None:
    """The later one takes the place of the earlier; with the unit that fails it is gone."""

    async def keep(unit: Unit) -> None:
        await unit.keep_answer(2, "order", "1 sagas", AT)
        await unit.keep_answer(2, "order", "2 sagas", AT + 1)

    async def fail(unit: Unit) -> None:
        await unit.keep_answer(2, "order", "3 sagas", AT + 2)
        raise RuntimeError("after the write")

    await store.transact(keep)
    with pytest.raises(RuntimeError, match="after the write"):
        await store.transact(fail)
    assert {"order": "2 sagas"} == await store.answers(2)
    assert {} == await store.answers(3)


async def test_envelopes_are_read_by_ids_and_none_that_is_too_large(store: Store) -> None:
    """A saga without one, one that is too large and one that was never seen are left out."""
    for saga_id, held in (("a", b"x" * 10), ("b", b"x" * 11), ("c", b"")):
        await store.transact(inserting(saga_id, replace(row(saga_id), envelope=held)))
    found = await store.envelopes(["a", "b", "c", "d"], 10)
    assert {"a": b"x" * 10} == found
