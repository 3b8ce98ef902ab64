"""A stage that was renamed is reconciled under each of its names."""

from __future__ import annotations

from typing import Any

import pytest

from stage.core.states import SagaState
from stage.engine.reconcile import Reconciler
from stage.ports.stage import Lost
from stage.store.memory import MemoryStore
from stage.wire.envelope import Envelope, TrailEntry, encode_envelope, format_instant
from stage.wire.outcome import Outcome
from stage.wire.shared import SharedPage, SharedSaga, Side
from stage.wire.strict_json import decode_object
from tests.unit.store.given import accepted, row

NAMES = ("payments", "payment")


class Shipping:
    """A downstream with one saga of each name; it may not know a caller by a name."""

    def __init__(self, unknown: str = "", saga_id: str = "") -> None:
        self._unknown = unknown
        self._saga_id = saga_id

    def name_of_today(self, peer: str) -> str:
        """See ports.neighbour.Neighbours."""
        return peer

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See ports.neighbour.Neighbours."""
        return (peer,)

    def is_upstream(self, peer: str) -> bool:
        """See ports.neighbour.Neighbours."""
        return peer == "order"

    async def get_shared(self, peer: str, asker: str, **_: Any) -> SharedPage | Lost:
        """See ports.neighbour.Neighbours."""
        if asker == self._unknown:
            return Lost(reason=f"answered 403: with is {asker!r}")
        at = format_instant(1.0)
        trail = (TrailEntry(stage="order", at=at), TrailEntry(stage=asker, at=at))
        saga_id = self._saga_id or f"s-{asker}"
        envelope = Envelope(saga_id=saga_id, data={asker: {"charge_id": "c"}}, trail=trail)
        saga = SharedSaga(
            saga_id=envelope.saga_id,
            side=Side.DOWNSTREAM,
            outcome=Outcome.EXECUTED,
            accepted_at=at,
            updated_at=at,
            envelope=decode_object(encode_envelope(envelope)),
        )
        return SharedPage(stage=peer, shared_with=asker, sagas=[saga])


@pytest.fixture
async def store() -> MemoryStore:
    """An empty one."""
    store = MemoryStore()
    await store.open()
    return store


async def test_sagas_from_before_a_rename_are_asked_for_by_the_name_of_then(
    store: MemoryStore,
) -> None:
    """And given back as they came, without the data and the place in the trail that it added."""
    unused: Any = None
    neighbours: Any = Shipping()
    found = await Reconciler(NAMES, store, neighbours, unused, unused).ask(["shipping"], 0.0)
    assert {"shipping": 2} == found.asked
    assert ["s-payment", "s-payments"] == [lost.id for lost in found.lost]
    for lost in found.lost:
        assert lost.envelope is not None
        assert ({}, "order") == (lost.envelope.data, lost.envelope.upstream)


async def test_a_saga_that_is_listed_under_both_names_is_heard_of_once(
    store: MemoryStore,
) -> None:
    """A stage lists what it handed on to a renamed downstream under each of its names."""
    unused: Any = None
    neighbours: Any = Shipping(saga_id="s-1")
    reconciler = Reconciler(NAMES, store, neighbours, unused, unused)
    (lost,) = (await reconciler.ask(["shipping"], 0.0)).lost
    assert ["shipping"] == [word.neighbour for word in lost.words]
    here = row("s-1", state=SagaState.COMPENSATED)
    await store.transact(lambda unit: unit.insert(here, accepted()))
    found = await reconciler.ask(["shipping"], 0.0)
    assert ["s-1"] == [each.saga_id for each in found.differences]


async def test_a_neighbour_that_was_renamed_is_asked_by_its_name_of_today(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opened sagas under its former name: that one is nobody to be asked beside it."""
    unused: Any = None
    neighbours: Any = Shipping()
    reconciler = Reconciler(NAMES, store, neighbours, unused, unused)

    async def openers() -> dict[str, int]:
        return {"parcels": 2, "shipping": 1, "web": 3}

    monkeypatch.setattr(reconciler, "openers", openers)
    renamed = {"parcels": "shipping"}
    monkeypatch.setattr(neighbours, "name_of_today", lambda name: renamed.get(name, name))
    found = await reconciler.reconcile(["shipping"], 0.0, {})
    assert ({"shipping": 2}, {"web": 3}) == (found.asked, found.unnamed)


async def test_a_neighbour_that_refuses_one_of_the_names_was_not_asked(store: MemoryStore) -> None:
    """Its list is not whole: no release follows until it has `formerly`, or is left out."""
    unused: Any = None
    neighbours: Any = Shipping(unknown="payment")
    found = await Reconciler(NAMES, store, neighbours, unused, unused).ask(["shipping"], 0.0)
    assert ({}, ["shipping"]) == (found.asked, list(found.unanswered))
