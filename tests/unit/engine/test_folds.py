"""A saga that left memory to wait goes on from its fold, unless another one has written it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.demo.payment import payment
from stage.engine.saga import folds, opening
from stage.engine.saga.context import baggage_of, with_baggage
from stage.engine.saga.cut_off import cut_off
from stage.engine.saga.folds import ENTRIES_MIN, ENVELOPE_BYTES_MAX, Folds
from stage.ports.store import SagaRow, Unit
from stage.simulation.world import Scenario, simulate_world

LONG = ENTRIES_MIN + 1
PLAN = payment.bind().plan
SAGA = Saga(id="s-1", length=LONG, epoch=3, updated_at=7.0)
ROW = SagaRow(
    id="s-1",
    state=SagaState.ACTIVE,
    epoch=3,
    length=LONG,
    accepted_at=1.0,
    updated_at=7.0,
    due_at=60.0,
)


def test_a_saga_at_rest_is_found_as_it_was_kept() -> None:
    """With the baggage that only its first entry holds."""
    kept = Folds()
    kept.keep(ROW, SAGA, "tenant=7")

    found = kept.find(ROW)

    assert found is not None
    assert (SAGA, "tenant=7") == (found.saga, found.baggage)


@pytest.mark.parametrize(
    "change",
    [
        {"length": LONG + 1},
        {"epoch": 4},
        {"state": SagaState.COMPENSATING},
        {"updated_at": 8.0},
        {"id": "s-2"},
    ],
)
def test_a_saga_that_another_one_wrote_is_folded_anew(change: dict[str, Any]) -> None:
    """Another replica, or another release, has gone on with it."""
    kept = Folds()
    kept.keep(ROW, SAGA, "")

    assert kept.find(replace(ROW, **change)) is None


@pytest.mark.parametrize(
    "row, saga",
    [
        (replace(ROW, due_at=None), SAGA),
        (ROW, replace(SAGA, length=ENTRIES_MIN - 1)),
        (replace(ROW, envelope=b"x" * (ENVELOPE_BYTES_MAX + 1)), SAGA),
        (ROW, replace(SAGA, plan=replace(PLAN, renamed={"bill": "charge"}))),
    ],
    ids=["over", "short", "large", "renamed"],
)
def test_a_saga_that_is_not_worth_its_memory_is_not_kept(row: SagaRow, saga: Saga) -> None:
    """And one that was kept before does not stay."""
    kept = Folds()
    kept.keep(ROW, SAGA, "")

    kept.keep(row, saga, "")

    assert 0 == len(kept)


@pytest.mark.parametrize(
    "row, saga",
    [
        (ROW, replace(SAGA, length=ENTRIES_MIN)),
        (replace(ROW, envelope=b"x" * ENVELOPE_BYTES_MAX), SAGA),
        (ROW, replace(SAGA, plan=PLAN)),
    ],
    ids=["just long enough", "just small enough", "of another version"],
)
def test_a_saga_at_a_limit_is_kept(row: SagaRow, saga: Saga) -> None:
    kept = Folds()
    kept.keep(row, saga, "")
    assert 1 == len(kept)


def test_no_more_are_kept_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was kept first goes first."""
    monkeypatch.setattr(folds, "FOLDS_MAX", 2)
    kept = Folds()
    for name in ("a", "b", "c"):
        kept.keep(replace(ROW, id=name), replace(SAGA, id=name), "")

    assert kept.find(replace(ROW, id="a")) is None
    assert kept.find(replace(ROW, id="c")) is not None


@pytest.mark.blocking
def test_a_kept_saga_is_what_its_journal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """In worlds in which everything goes wrong, of every saga that goes on from its fold."""
    monkeypatch.setattr(folds, "ENTRIES_MIN", 1)
    find = opening.Opening._found
    hits = 0

    async def compared(self: Any, unit: Unit, row: SagaRow, context: Any) -> Any:
        nonlocal hits
        kept = self.folds.find(row)
        found = await find(self, unit, row, context)
        if kept is not None:
            hits += 1
            entries = await unit.journal(row.id)
            assert self._interpreter.fold(row.id, entries) == found.saga
            assert () == cut_off(entries)
            assert with_baggage(context, baggage_of(entries)) == found.context
        return found

    monkeypatch.setattr(opening.Opening, "_found", compared)
    for seed in range(12):
        world = Scenario(sagas=10, always=frozenset({"api_away", "partition", "tail_fails_late"}))
        assert [] == simulate_world(seed, world).violations

    assert hits > 20
