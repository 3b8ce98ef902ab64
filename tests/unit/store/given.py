"""Rows, events and small units to test with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest

from stage.core.events import Accepted, Event, Parked
from stage.core.place import NOWHERE, Place
from stage.core.states import ParkCause, SagaState
from stage.ports.store import SagaRow, Store, Unit
from stage.store.sqlite.store import SqliteStore
from tests.waits import HANG_SECONDS

AT = 1_795_401_000.5


def row(
    saga_id: str,
    *,
    state: SagaState = SagaState.ACTIVE,
    epoch: int = 1,
    length: int = 1,
    parked: str = "",
    parked_cause: ParkCause | None = None,
    due_at: float | None = None,
    place: Place = NOWHERE,
) -> SagaRow:
    """A row with every column filled."""
    return SagaRow(
        id=saga_id,
        state=state,
        epoch=epoch,
        step=place.step,
        peer=place.peer,
        length=length,
        accepted_at=AT,
        updated_at=AT + 1,
        fingerprint="f" * 64,
        parked=parked,
        parked_cause=parked_cause,
        due_at=due_at,
        deadline=AT + 9,
        envelope=b'{"saga_id":"x"}',
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
        tracestate="v=1",
        answer_status=200,
        answer_body=b"\x00\xff",
    )


def accepted() -> list[Event]:
    """The first entries of a saga."""
    return [Accepted(at=AT, upstream="order")]


def parked() -> list[Event]:
    """Entries to add."""
    return [
        Parked(at=AT + 2, cause=ParkCause.IN_DOUBT, reason="a"),
        Parked(at=AT + 3, cause=ParkCause.IN_DOUBT, reason="b"),
    ]


def inserting(
    saga_id: str, first: SagaRow | None = None, events: Sequence[Event] | None = None
) -> Callable[[Unit], Awaitable[str]]:
    """A unit that inserts one saga and returns its id."""

    async def unit(unit: Unit) -> str:
        await unit.insert(first or row(saga_id), accepted() if events is None else events)
        return saga_id

    return unit


def paying(saga_id: str, amount: int = 1) -> Callable[[Unit], Awaitable[int]]:
    """A unit that writes one row of the author."""

    async def unit(unit: Unit) -> int:
        return await unit.tx.execute(
            "INSERT INTO payment (saga_id, amount) VALUES ($1, $2)", saga_id, amount
        )

    return unit


async def payments(store: Store) -> list[str]:
    """The author's rows, by saga id."""

    async def unit(unit: Unit) -> list[str]:
        return [r[0] for r in await unit.tx.fetchall("SELECT saga_id FROM payment ORDER BY 1")]

    return await store.transact(unit)


async def in_one_batch(store: Store, *units: Callable[[Unit], Awaitable[Any]]) -> list[Any]:
    """Send units that find the writer at work, so that they share a batch; the outcome of each."""
    if not isinstance(store, SqliteStore):
        # The writer of PostgreSQL takes its next turn after all of these; memory has no batches.
        sending = [asyncio.ensure_future(store.transact(unit)) for unit in units]
        return await asyncio.gather(*sending, return_exceptions=True)
    loop = asyncio.get_running_loop()
    at_work, sent = asyncio.Event(), threading.Event()

    async def hold(unit: Unit) -> None:
        loop.call_soon_threadsafe(at_work.set)
        sent.wait(HANG_SECONDS)
        raise LookupError("this one writes nothing, so that its batch takes no COMMIT")

    holding = asyncio.ensure_future(store.transact(hold))
    await at_work.wait()
    waiting = [asyncio.ensure_future(store.transact(unit)) for unit in units]
    await asyncio.sleep(0)
    sent.set()
    with pytest.raises(LookupError, match="this one"):
        await holding
    return await asyncio.gather(*waiting, return_exceptions=True)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something holds that no event announces; five seconds at most."""
    async with asyncio.timeout(HANG_SECONDS):
        while not true():  # noqa: ASYNC110 - the store has no event for it
            await asyncio.sleep(0.01)


def longer(before: SagaRow, added: int, **changes: object) -> SagaRow:
    """The row after `added` more entries."""
    return msgspec.structs.replace(before, length=before.length + added, **changes)
