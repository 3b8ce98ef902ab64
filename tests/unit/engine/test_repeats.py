"""An order that comes a second time under one key is not done again (decision 0092)."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.act_key import ActKey, KeptAct
from stage.engine.saga.repeats import act_key_of, refuse_kept, refuse_repeat
from stage.ports.engine import ActRepeated, KeyReused
from stage.store.memory import MemoryStore

KEY = ActKey(key="k-1", digest="d-1")
KEPT = KeptAct(digest="d-1", at=5.0, sweep=3)


def test_a_repeat_is_answered_as_the_first_was() -> None:
    with pytest.raises(ActRepeated) as caught:
        refuse_kept(KEY, KEPT)
    assert KEPT == caught.value.kept


def test_another_order_under_the_key_is_refused_as_such() -> None:
    """It was not done, and must not be answered as if it had been."""
    with pytest.raises(KeyReused):
        refuse_kept(ActKey(key="k-1", digest="d-2"), KEPT)


def test_the_first_order_under_a_key_is_done() -> None:
    refuse_kept(KEY, None)


async def test_a_repeat_is_found_in_the_unit_that_would_do_it() -> None:
    """An order without a key is found nowhere."""
    store = MemoryStore()
    await store.open()
    await store.transact(lambda unit: refuse_repeat(unit, KEY))
    await store.transact(lambda unit: unit.keep_act_key(KEY, 5.0))
    with pytest.raises(ActRepeated):
        await store.transact(lambda unit: refuse_repeat(unit, KEY))
    await store.transact(lambda unit: refuse_repeat(unit, None))


def test_only_the_verb_of_a_person_has_a_key() -> None:
    verb = e.Retried(at=1.0, actor="kim", why="ticket 7", act_key=KEY)
    assert KEY == act_key_of(verb)
    assert act_key_of(e.Forgotten(at=1.0, actor="kim", why="ticket 7")) is None
    assert act_key_of(e.CompensationRequested(at=1.0)) is None
    assert act_key_of(None) is None
