"""The folded states of sagas that left memory to wait: a wait would cost the square of its length.

A saga that waits out an outage is taken over at each attempt, and its journal grows by each. It is
folded from its whole journal once, and goes on from here while nobody else has written it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stage.core.saga import Saga
from stage.ports.store import SagaRow

FOLDS_MAX: Final = 5_000
"""Sagas that are kept; the one that was kept first goes first."""
ENTRIES_MIN: Final = 24
"""A shorter journal is folded sooner than it is worth the memory."""
ENVELOPE_BYTES_MAX: Final = 16_384
"""A saga with a larger payload, whose requests may be as large, is not kept."""


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A saga at rest, with the baggage that it was accepted with. Nothing of it was in flight."""

    saga: Saga
    baggage: str


class Folds:
    """The folded sagas of one process."""

    def __init__(self) -> None:
        self._kept: dict[str, Folded] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, row: SagaRow, saga: Saga, baggage: str) -> None:
        """Keep a saga that leaves memory, is due later, and has nothing in flight.

        A saga whose plan renames steps is not kept: its entries have other names than its state.
        """
        self._kept.pop(row.id, None)
        if row.due_at is None or saga.length < ENTRIES_MIN:
            return
        if len(row.envelope) > ENVELOPE_BYTES_MAX or (saga.plan is not None and saga.plan.renamed):
            return
        if len(self._kept) >= FOLDS_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[row.id] = Folded(saga=saga, baggage=baggage)

    def find(self, row: SagaRow) -> Folded | None:
        """The saga as its row has it; None when it is not kept, or another process wrote it."""
        kept = self._kept.get(row.id)
        if kept is None:
            return None
        saga = kept.saga
        same = (saga.length, saga.epoch, saga.state) == (row.length, row.epoch, row.state)
        return kept if same and saga.updated_at == row.updated_at else None
