"""The part of the law of ports/store.py about what is dropped for its age, against every store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core.states import SagaState
from stage.core.unseen import first_id_at, sent_at_of
from stage.ports.store import Act, Changes, Dropped, LostSaga, Store, Unit
from tests.unit.store.given import AT, accepted, inserting, row

CLOSED = AT + 2


def dated(at: float, last: int = 0) -> str:
    """A UUIDv7 of that instant."""
    return f"{first_id_at(at)}000-8000-{last:012x}"


OLD, OLDER, NEW = dated(AT - 5, 1), dated(AT - 9, 2), dated(AT + 900)


async def closed(store: Store, *ids: str, state: SagaState = SagaState.COMPLETED) -> None:
    """Sagas that ended, and were closed at CLOSED."""
    for saga_id in ids:
        ended = replace(row(saga_id, state=state), due_at=None, answer_status=200)
        await store.transact(inserting(saga_id, ended))
    assert len(ids) == await store.transact(lambda unit: unit.close_ended(AT + 9, CLOSED, 100))


async def kept(store: Store, *ids: str) -> Sequence[str]:
    """Those of the ids that have a row, in that order."""
    seen = await store.seen(ids)
    return [saga_id for saga_id in ids if saga_id in seen]


async def test_old_answers_are_emptied_and_their_codes_stay(store: Store) -> None:
    """The first ones first, at most so many; a row that is not closed keeps its own."""
    await closed(store, "a", "b", "c", state=SagaState.COMPENSATED)
    await store.transact(inserting("d", replace(row("d"), state=SagaState.COMPLETED)))
    assert 0 == await store.transact(lambda unit: unit.drop_answers(CLOSED, 9))
    assert 2 == await store.transact(lambda unit: unit.drop_answers(CLOSED + 1, 2))
    assert 1 == await store.transact(lambda unit: unit.drop_answers(CLOSED + 1, 9))
    for saga_id in "abcd":
        found = await store.get(saga_id)
        assert found is not None
        assert (200, saga_id != "d") == (found.answer_status, found.answer_dropped)
    assert await store.transact(lambda unit: unit.drop_answer("a"))
    assert not await store.transact(lambda unit: unit.drop_answer("d"))


async def test_a_saga_that_a_person_gave_up_keeps_its_answer_and_its_row(store: Store) -> None:
    """It says what stands, and nothing else does."""
    ended = replace(row(OLD), state=SagaState.FAILED_TO_COMPENSATE, due_at=None, answer_status=410)
    await store.transact(inserting(OLD, ended))
    assert 1 == await store.transact(lambda unit: unit.close_ended(AT, CLOSED, 10))
    assert 0 == await store.transact(lambda unit: unit.drop_answers(AT + 99, 9))
    assert 0 == await store.transact(lambda unit: unit.drop_rows(AT + 99, 9))
    assert not await store.transact(lambda unit: unit.drop_row(OLD))
    assert not await store.transact(lambda unit: unit.drop_answer(OLD))


async def test_rows_are_dropped_whose_ids_prove_their_age(store: Store) -> None:
    """In lower case, of an instant before: any other id keeps its row, whatever its age."""
    odd = ["o-1", OLD.upper(), "-" * 14 + "7" + OLD[15:], OLD.replace("-8", "-c"), OLD[:-1] + "x"]
    await closed(store, OLD, OLDER, NEW, *odd)
    assert Dropped() == await store.dropped()
    assert 0 == await store.transact(lambda unit: unit.drop_rows(CLOSED, 9))
    assert 1 == await store.transact(lambda unit: unit.drop_rows(CLOSED + 1, 1))
    assert [OLD] == await kept(store, OLD, OLDER)
    assert 1 == await store.transact(lambda unit: unit.drop_rows(CLOSED + 1, 9))
    assert [NEW, *odd] == await kept(store, OLD, OLDER, NEW, *odd)
    assert Dropped(ids_until=sent_at_of(OLD) or 0.0, changed_until=AT + 1) == await store.dropped()
    assert [] == await store.entries(OLD)
    changed = await store.changed(Changes(at=0.0, limit=99))
    assert OLD not in [each.id for each in changed]


async def test_an_id_of_a_later_instant_than_its_end_keeps_its_row(store: Store) -> None:
    """The mark would be ahead of new sagas, and each of them refused: from one wrong clock."""
    just_then, just_before = dated(CLOSED), dated(CLOSED - 0.001)
    await closed(store, NEW, just_then, just_before)
    assert 1 == await store.transact(lambda unit: unit.drop_rows(AT + 1e9, 9))
    assert not await store.transact(lambda unit: unit.drop_row(NEW))
    assert [NEW, just_then] == await kept(store, NEW, just_then, just_before)
    assert sent_at_of(just_before) == (await store.dropped()).ids_until


async def test_a_drop_is_known_in_the_unit_that_makes_it(store: Store) -> None:
    """And where that unit raises, neither is there."""
    await closed(store, OLD, "o-1")

    async def dropping(unit: Unit, *, fails: bool) -> tuple[bool, bool, float]:
        done = await unit.drop_row(OLD), await unit.drop_row("o-1")
        until = (await unit.dropped()).ids_until
        if fails:
            raise ZeroDivisionError
        return *done, until

    with pytest.raises(ZeroDivisionError):
        await store.transact(partial(dropping, fails=True))
    assert ([OLD], Dropped()) == (await kept(store, OLD), await store.dropped())
    assert (True, False, sent_at_of(OLD)) == await store.transact(partial(dropping, fails=False))
    assert ["o-1"] == await kept(store, OLD, "o-1")


async def test_the_mark_never_goes_back(store: Store) -> None:
    """An older row that is dropped later changes nothing of it."""
    await closed(store, OLD, OLDER)
    assert await store.transact(lambda unit: unit.drop_row(OLD))
    before = await store.dropped()
    assert await store.transact(lambda unit: unit.drop_row(OLDER))
    assert before == await store.dropped()


async def test_a_dropped_saga_does_not_count_as_lost_again(store: Store) -> None:
    """It was adopted once, and what was asked of it goes with its row."""
    asked = LostSaga(saga_id=OLD, requested_by="shipping", reason="gone", asked_at=AT)
    other = replace(asked, saga_id=OLDER)
    await store.transact(partial(_asked, about=(asked, other)))
    await closed(store, OLD)
    assert 1 == await store.transact(lambda unit: unit.drop_rows(CLOSED + 1, 9))
    assert [OLDER] == [lost.saga_id for lost in await store.lost_sagas(9)]
    assert 1 == (await store.backlog(AT)).lost


async def _asked(unit: Unit, *, about: Sequence[LostSaga]) -> None:
    for lost in about:
        await unit.keep_lost(lost)


async def test_the_oldest_acts_are_dropped_and_their_numbers_stay_used(store: Store) -> None:
    """At most so many are looked at, from the first one on."""
    for number in range(1, 6):
        await store.transact(partial(_act, at=AT + number))
    assert 2 == await store.transact(lambda unit: unit.drop_acts(AT + 9, 2))
    assert 1 == await store.transact(lambda unit: unit.drop_acts(AT + 4, 9))
    await store.transact(partial(_act, at=AT + 6))
    assert [6, 5, 4] == [act.number for act in await store.acts(9)]


async def _act(unit: Unit, *, at: float) -> None:
    given: dict[str, Any] = {"actor": "kim", "act": "retried", "target": "a", "reason": "asked"}
    await unit.keep_act(Act(at=at, **given))


async def test_a_saga_may_be_accepted_where_a_row_was_dropped(store: Store) -> None:
    """The store only keeps the mark: who opens a saga goes by it."""
    await closed(store, OLD)
    assert await store.transact(lambda unit: unit.drop_row(OLD))
    await store.transact(inserting(OLD, events=accepted()))
    assert [OLD] == await kept(store, OLD)
