"""A list is read first and its sagas afterwards: one that has gone in between ends nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core.errors import NewerJournal
from stage.core.states import SagaState
from stage.core.unseen import first_id_at
from stage.demo.payment import payment
from stage.engine.reconcile import Reconciler
from stage.ports.engine import PastRetention
from stage.ports.observer import TraceContext
from stage.ports.store import Changes, Entry, LostSaga, SagaRow, Store
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase
from stage.wire.envelope import Envelope, TrailEntry, format_instant
from stage.wire.outcome import Outcome
from stage.wire.shared import SharedPage, SharedSaga, Side
from tests.unit.engine.test_cost import ORDER
from tests.unit.engine.test_replicas import Replica, World
from tests.unit.store.given import inserting, row
from tests.waits import until

AGE_SECONDS = 20 * 86_400.0
FOREVER = 9e9
Gone = Callable[[Store, str], Awaitable[None]]


def old_id(replica: Replica, number: int = 1) -> str:
    """A UUIDv7 of some days ago: of such a saga the row may be dropped."""
    return f"{first_id_at(replica.clock.now() - AGE_SECONDS)}000-8000-{number:012x}"


async def closed(store: Store, saga_id: str) -> None:
    """Retention closes it."""
    await store.transact(lambda unit: unit.close_ended(FOREVER, FOREVER, 10))


async def dropped(store: Store, saga_id: str) -> None:
    """Retention closes it, and drops its row."""
    await closed(store, saga_id)
    assert await store.transact(lambda unit: unit.drop_row(saga_id))


async def erased(store: Store, saga_id: str) -> None:
    """A person has erased its contents."""
    before = await store.get(saga_id)
    assert before is not None
    after = replace(before, epoch=before.epoch + 1, envelope=b"", closed_at=FOREVER)
    assert await store.transact(lambda unit: unit.close(after, epoch=before.epoch))


@pytest.fixture
def database() -> Iterator[MemoryDatabase]:
    assert payment.migrations is not None
    made = MemoryDatabase([payment.migrations])
    yield made
    made.discard()


@pytest.fixture
async def replica(database: MemoryDatabase) -> AsyncIterator[Replica]:
    made = Replica(database, World())
    await made.start()
    yield made
    await made.stop()
    assert [] == made.observer.defects


async def completed(replica: Replica, saga_id: str) -> None:
    """A saga of upstream `order` that is over, and has left memory."""
    trail = (TrailEntry(stage="order", at=format_instant(replica.clock.now())),)
    envelope = Envelope(saga_id=saga_id, data=ORDER, trail=trail)
    reply = await replica.engine.accept(
        envelope, trace=TraceContext(), deadline=None, respond_async=False, wait_seconds=20.0
    )
    assert reply is not None and 200 == reply.status
    await until(lambda: 0 == replica.engine.live)


def goes_in_between(replica: Replica, gone: Gone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let that happen to a saga behind the read of its row, before its journal is read."""
    store = replica.store
    entries = store.entries

    async def late(saga_id: str) -> list[Entry]:
        monkeypatch.setattr(store, "entries", entries)
        await gone(store, saga_id)
        return await entries(saga_id)

    monkeypatch.setattr(store, "entries", late)


@pytest.mark.parametrize("gone", [closed, erased])
async def test_a_saga_that_is_closed_between_two_reads_is_shown_as_it_ended(
    replica: Replica, gone: Gone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal has gone, and the rules would take a saga without one for one under way."""
    await completed(replica, "s-1")
    goes_in_between(replica, gone, monkeypatch)
    found = await replica.engine.get_saga("s-1")
    assert found is not None and found.row.closed_at is not None
    assert (SagaState.COMPLETED, False) == (found.saga.state, found.readable)


async def test_a_saga_that_is_dropped_between_two_reads_is_past_retention(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is said of it any more, as of one that was dropped before."""
    saga_id = old_id(replica)
    await completed(replica, saga_id)
    goes_in_between(replica, dropped, monkeypatch)
    with pytest.raises(PastRetention):
        await replica.engine.get_saga(saga_id)


@pytest.mark.parametrize("gone", [closed, erased, dropped])
async def test_a_list_for_a_neighbour_says_nothing_false_of_a_saga_that_goes_meanwhile(
    replica: Replica, gone: Gone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is on the list, as executed, and so are the sagas behind it."""
    ids = [old_id(replica, number) for number in (1, 2)]
    for saga_id in ids:
        await completed(replica, saga_id)
    goes_in_between(replica, gone, monkeypatch)
    found = await replica.engine.shared("order", Changes(at=1.0))
    assert [(each, Outcome.EXECUTED) for each in ids] == sorted(
        (each.saga_id, each.outcome) for each in found.sagas
    )


class Unread(MemoryStore):
    """Its rows are those of a newer release."""

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        if await super().get(saga_id) is None:
            return None
        raise NewerJournal("the release that wrote it goes on with it")


class Lists:
    """A neighbour that lists one saga."""

    async def get_shared(self, peer: str, asker: str, **_: Any) -> SharedPage:
        """See ports.neighbour.Neighbours."""
        at = format_instant(1.0)
        saga = SharedSaga(
            saga_id="s-1",
            side=Side.UPSTREAM,
            outcome=Outcome.EXECUTED,
            accepted_at=at,
            updated_at=at,
            envelope=None,
        )
        return SharedPage(stage=peer, shared_with=asker, sagas=[saga])


async def test_a_saga_that_only_a_newer_release_can_read_is_not_taken_for_a_lost_one() -> None:
    """Neighbours are asked all the same, and what they say of others counts."""
    store = Unread()
    await store.open()
    await store.transact(inserting("s-1", row("s-1")))
    kept = LostSaga(saga_id="s-1", requested_by="order", reason="x", asked_at=1.0)
    store._database.lost["s-1", "order"] = kept
    unused: Any = None
    reconciler = Reconciler(("payment",), store, Lists(), unused, unused)  # type: ignore[arg-type]
    found = await reconciler.ask(["shipping"], 0.0)
    assert ([], {"shipping": 1}, {}) == (found.lost, found.asked, found.unanswered)
    await store.close()
