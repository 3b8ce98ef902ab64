"""The writes of a batch that the server has not seen yet.

Our rows go to the server once a batch, in one statement, just before COMMIT. Until then a saga that
a unit wrote is read from here. A unit that fails takes its writes out again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from stage.core.events import Event
from stage.ports.codec import Codec
from stage.ports.store import Entry, SagaRow, Term
from stage.store import rows


class Write(msgspec.Struct, frozen=True, kw_only=True):
    """All that a batch writes to one saga: its last row, and the entries in order."""

    row: SagaRow
    entries: tuple[Entry, ...]
    held: tuple[int, int] | None
    """Epoch and length of the stored row that it replaces; None for a new saga."""
    terms: tuple[Term, ...] = ()


class Writes:
    """The writes of one batch, by saga, in the order in which they began."""

    def __init__(self) -> None:
        self.sagas: dict[str, Write] = {}
        self.taken: dict[str, None] = {}
        """Sagas that are owned by this replica from here on, written or not."""
        self.received: dict[int, None] = {}
        """Numbers of mail whose events the batch journals."""
        self._changes: list[Callable[[], object]] = []
        """Each undoes one change."""

    def mark(self) -> int:
        """A place to which `undo` can go back."""
        return len(self._changes)

    def undo(self, mark: int) -> None:
        """Take out all that came after the mark."""
        while len(self._changes) > mark:
            self._changes.pop()()

    def insert(self, row: SagaRow, events: Sequence[Event], terms: Sequence[Term]) -> None:
        """A new saga. Raises KeyError when a unit of this batch has written it already."""
        if row.id in self.sagas:
            raise KeyError(row.id)
        self._put(Write(row=row, entries=_entries(row, events), held=None, terms=tuple(terms)))

    def save(self, row: SagaRow, events: Sequence[Event], epoch: int) -> None:
        """More of a saga. The stored row is compared at the end of the batch."""
        before = self.sagas.get(row.id)
        length = row.length - len(events)
        if before is None:
            self._put(Write(row=row, entries=_entries(row, events), held=(epoch, length)))
            return
        last = before.row
        if last.epoch != epoch or last.length != length:
            rows.refuse(row, epoch, len(events), (last.epoch, last.length))
        entries = before.entries + _entries(row, events)
        self._put(Write(row=row, entries=entries, held=before.held, terms=before.terms))

    def take(self, saga_id: str) -> None:
        """This replica owns the saga from here on."""
        if saga_id not in self.taken:
            self.taken[saga_id] = None
            self._changes.append(partial(self.taken.pop, saga_id))

    def receive(self, mail: Sequence[int]) -> None:
        """Drop this mail."""
        for number in mail:
            if number not in self.received:
                self.received[number] = None
                self._changes.append(partial(self.received.pop, number))

    def parameters(self, codec: Codec) -> list[list[object]]:
        """The parameters of `write_batch` from $4 on, each a column."""
        sagas = [
            (*rows.parameters(write.row, codec), *(write.held or (None, None)))
            for write in self.sagas.values()
        ]
        entries: list[list[object]] = [[] for _ in range(6)]
        for saga_id, write in self.sagas.items():
            for each in write.entries:
                values = rows.entry_values(saga_id, each, codec)
                for column, value in zip(entries, values, strict=True):
                    column.append(value)
        columns: list[list[object]] = [list(column) for column in zip(*sagas, strict=True)]
        columns = columns or [[] for _ in range(21)]
        taken: list[object] = list(self.taken)
        terms: list[list[object]] = [[] for _ in range(3)]
        for saga_id, write in self.sagas.items():
            for term in rows.term_values(write.terms, saga_id, codec):
                for column, value in zip(terms, term, strict=True):
                    column.append(value)
        return [*columns, *entries, taken, list(self.received), *terms]

    def _put(self, write: Write) -> None:
        saga_id = write.row.id
        before = self.sagas.get(saga_id)
        if before is None:
            self._changes.append(partial(self.sagas.pop, saga_id))
        else:
            self._changes.append(partial(self.sagas.__setitem__, saga_id, before))
        self.sagas[saga_id] = write


def _entries(row: SagaRow, events: Sequence[Event]) -> tuple[Entry, ...]:
    first = row.length - len(events) + 1
    return tuple(
        Entry(number=number, epoch=row.epoch, event=event)
        for number, event in enumerate(events, first)
    )
