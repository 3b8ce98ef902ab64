"""The approvals that wait are found without reading an entry of a journal twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage.core.events import Accepted, ApprovalAsked, Approved, Event, StillPending
from stage.core.place import NOWHERE, Place
from stage.ports.store import Asked, SagaRow, Store, Unit
from stage.store.asked import AskedApprovals
from stage.store.memory import MemoryStore
from tests.unit.store.given import AT, inserting, row

RISK = Place("risk", "")
BOOK = Place("book", "")
QUIET = 600.0


async def ask(store: Store, saga_id: str, place: Place = RISK, *words: Event) -> SagaRow:
    """A saga that waits there, with these entries behind its first."""
    events: list[Event] = [Accepted(at=AT), *words]
    made = replace(row(saga_id, place=place), length=len(events), due_at=AT)
    await store.transact(inserting(saga_id, made, events))
    return made


async def add(store: Store, before: SagaRow, *events: Event, **changes: Any) -> SagaRow:
    """The row with these entries more."""
    length = before.length + len(events)
    after = replace(before, length=length, **{"updated_at": events[-1].at, **changes})

    async def unit(unit: Unit) -> None:
        await unit.save(after, list(events), epoch=before.epoch)

    await store.transact(unit)
    return after


async def asked(store: Store, now: float) -> list[tuple[str, int, float, float]]:
    """Step, sagas, when the oldest was asked for, and how long that one has waited."""
    found: list[Asked] = sorted((await store.backlog(now, 1)).asked, key=lambda each: each.step)
    return [
        (each.step, each.sagas, each.oldest_asked_at, each.oldest_waited_seconds) for each in found
    ]


async def test_each_look_finds_what_changed_since_the_last(store: Store) -> None:
    """Entries while it waits, a yes, another question, and a saga that comes in between."""
    first = await ask(store, "a", RISK, ApprovalAsked(at=AT, step="risk"))
    await ask(store, "b", BOOK)
    assert [("risk", 1, AT, 5.0)] == await asked(store, AT + 5.0)
    first = await add(store, first, StillPending(at=AT + QUIET, step="risk"))
    assert [("risk", 1, AT, QUIET + 7.0)] == await asked(store, AT + QUIET + 7.0)
    later = AT + 2 * QUIET
    second = await ask(store, "c", RISK, ApprovalAsked(at=later, step="risk"))
    first = await add(store, first, StillPending(at=later, step="risk"))
    assert [("risk", 2, AT, 2 * QUIET + 1.0)] == await asked(store, later + 1.0)
    yes = Approved(at=later + 2.0, actor="kim", why="ticket 17", step="risk")
    await add(store, first, yes, step=NOWHERE.step, due_at=None)
    assert [("risk", 1, later, 3.0)] == await asked(store, later + 3.0)
    again = ApprovalAsked(at=later + 5.0, step="review")
    await add(store, second, replace(yes, at=later + 4.0), again, step="review")
    assert [("review", 1, later + 5.0, 1.0)] == await asked(store, later + 6.0)


async def test_the_oldest_that_waits_for_no_person_is_found_among_those_without_a_peer(
    store: Store,
) -> None:
    """A transaction that is repeated has no peer either, and nobody is asked about it."""
    waits = await ask(store, "a", RISK, ApprovalAsked(at=AT, step="risk"))
    assert (await store.backlog(AT, 1)).oldest_accepted_at is None
    await ask(store, "b", BOOK)
    assert AT == (await store.backlog(AT, 1)).oldest_accepted_at
    yes = Approved(at=AT + 1.0, actor="kim", why="ticket 17", step="risk")
    await add(store, waits, yes, step="book", accepted_at=AT - 9.0)
    assert AT - 9.0 == (await store.backlog(AT, 1)).oldest_accepted_at


async def test_no_entry_is_read_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of a saga that waits for days, nor of a transaction that is repeated."""
    if isinstance(store, MemoryStore):
        pytest.skip("it has its journals at hand")
    looker = store._asked  # type: ignore[attr-defined]
    assert isinstance(looker, AskedApprovals)
    read, reads = looker._read, []

    async def recording(name: str, *parameters: Any) -> Any:
        found = await read(name, *parameters)
        if name != "waiting_without_peer":
            reads.append((name, parameters, len(found)))
        return found

    monkeypatch.setattr(looker, "_read", recording)
    many = [StillPending(at=AT + QUIET * n, step="risk") for n in range(1, 50)]
    first = await ask(store, "a", RISK, ApprovalAsked(at=AT, step="risk"), *many)
    other = await ask(store, "b", BOOK, *many)
    now = AT + 50 * QUIET
    await store.backlog(now, 1)
    reads.clear()

    await store.backlog(now, 1)
    assert [("instants_since", ("a", first.length), 1)] == reads
    reads.clear()
    await add(store, first, StillPending(at=now, step="risk"))
    await add(store, other, StillPending(at=now, step="book"))
    await store.backlog(now + 1.0, 1)
    (words, instants) = reads
    pairs = sorted(msgspec.json.decode(words[1][0]))
    assert [["a", first.length], ["b", other.length]] == pairs
    assert ("instants_since", ("a", first.length), 2) == instants
