"""Several neighbours say that a lost saga is theirs: nothing is undone by the payload of another.

Two upstreams that number their orders have the same id. Only the first one was accepted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.engine.clock import SystemClock
from stage.engine.reconcile import Reconciler
from stage.engine.saga.adoption import Adoption
from stage.engine.saga.adoption import Testimony as Lost
from stage.engine.saga.context import context_of
from stage.ports.store import LostSaga
from stage.store.codec import PLAIN
from stage.store.memory import MemoryStore
from stage.wire.envelope import encode_envelope, format_instant
from stage.wire.outcome import Outcome
from stage.wire.shared import SharedPage, SharedSaga, Side
from tests.unit.engine.test_adoption import NOW, ORDER, adoption, store, written

__all__ = ["adoption", "store"]

BILLED = replace(
    ORDER, data={"amount": 1_000_000}, trail=(replace(ORDER.trail[-1], stage="billing"),)
)
STAGE = replace(ORDER.trail[-1], stage="payment")
HANDED_ON = replace(ORDER, trail=(*ORDER.trail, STAGE))
Item = tuple[str, Side, Outcome, Any]
ORDERED: Item = ("order", Side.UPSTREAM, Outcome.EXECUTED, ORDER)
BILLS: Item = ("billing", Side.UPSTREAM, Outcome.EXECUTED, BILLED)
SHIPS: Item = ("shipping", Side.DOWNSTREAM, Outcome.EXECUTED, HANDED_ON)


class Lists:
    """The neighbours of a stage, each with its items of one saga."""

    def __init__(self, *items: Item, at: str = format_instant(NOW)) -> None:
        self._items = items
        self._at = at
        self.since = NOW

    def name_of_today(self, peer: str) -> str:
        """See ports.neighbour.Neighbours."""
        return peer

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See ports.neighbour.Neighbours."""
        return (peer,)

    def is_upstream(self, peer: str) -> bool:
        """See ports.neighbour.Neighbours."""
        return peer in ("order", "billing")

    async def get_shared(self, peer: str, asker: str, *, since: float, **_: Any) -> SharedPage:
        """See ports.neighbour.Neighbours."""
        self.since = since
        sagas = [
            SharedSaga(
                saga_id="s-1",
                side=side,
                outcome=outcome,
                accepted_at=self._at,
                updated_at=self._at,
                envelope=None if sent is None else msgspec.json.decode(encode_envelope(sent)),
            )
            for name, side, outcome, sent in self._items
            if name == peer
        ]
        return SharedPage(stage=peer, shared_with=asker, sagas=sagas)


async def heard(adoption: Adoption, store: MemoryStore, *items: Item) -> Lost:
    """The lost saga, after all were asked."""
    lists: Any = Lists(*items)
    reconciler = Reconciler(("payment",), store, lists, adoption, SystemClock())
    (lost,) = (await reconciler.ask([*dict.fromkeys(item[0] for item in items)], 0.0)).lost
    return lost


@pytest.mark.parametrize("said", [Outcome.COMPENSATED, Outcome.NOT_EXECUTED])
@pytest.mark.parametrize("last", [True, False])
async def test_an_upstream_that_was_refused_its_id_owns_nothing(
    adoption: Adoption, store: MemoryStore, said: Outcome, last: bool
) -> None:
    """The last one that listed it was its owner, and its payload that of the saga."""
    refused: Item = ("billing", Side.UPSTREAM, said, BILLED)
    items = (ORDERED, refused) if last else (refused, ORDERED)
    _, row, events = await written(adoption, store, await heard(adoption, store, *items))
    assert isinstance(events[0], e.Accepted) and "order" == events[0].upstream
    assert ORDER == context_of(row, PLAIN).envelope


@pytest.mark.parametrize("items", [(ORDERED, BILLS), (BILLS, ORDERED), (BILLS, SHIPS)])
async def test_a_saga_that_is_claimed_against_others_is_nobody_s(
    adoption: Adoption, store: MemoryStore, items: Sequence[Item]
) -> None:
    """Neither undoes it: a person reads who says so."""
    lost = await heard(adoption, store, *items)
    for name in ("order", "billing"):
        kept = LostSaga(saga_id="s-1", requested_by=name, reason="mine", asked_at=NOW)
        await store.transact(lambda unit, kept=kept: unit.keep_lost(kept))  # type: ignore[misc]
    _, row, events = await written(adoption, store, lost)
    assert isinstance(events[0], e.Accepted) and "" == events[0].upstream
    assert isinstance(events[-1], e.Parked)
    assert "billing" in row.parked and "nothing proves whose it is" in row.parked
    envelope = context_of(row, PLAIN).envelope
    assert envelope is not None and {} == envelope.data


async def test_the_envelope_that_went_through_this_stage_says_whose_it_is(
    adoption: Adoption, store: MemoryStore
) -> None:
    lost = await heard(adoption, store, ORDERED, BILLS, SHIPS)
    assert ("order", ORDER) == (lost.upstream, lost.came_in)
    assert "billing" not in lost.upstream


@pytest.mark.parametrize("side", [Side.UPSTREAM, Side.DOWNSTREAM])
async def test_an_upstream_speaks_for_no_other(
    adoption: Adoption, store: MemoryStore, side: Side
) -> None:
    """Its item has the name of another one: neither its payload nor its word counts."""
    forged: Item = ("billing", side, Outcome.COMPENSATED, replace(ORDER, data={"amount": 9}))
    unsent: Item = ("order", Side.UPSTREAM, Outcome.EXECUTED, None)
    lost = await heard(adoption, store, forged, unsent)
    assert ("order", None) == (lost.upstream, lost.came_in)
    assert [False, True] == [word.from_upstream for word in lost.words]
    alone = await heard(adoption, store, forged)
    assert (True, "", None) == (alone.may_stand, alone.upstream, alone.came_in)


async def test_no_upstream_counts_as_the_way_through_this_stage(
    adoption: Adoption, store: MemoryStore
) -> None:
    """It said as downstream too that the saga was its own."""
    through: Item = ("billing", Side.DOWNSTREAM, Outcome.EXECUTED, BILLED)
    lost = await heard(adoption, store, BILLS, through, ORDERED)
    assert ("", None) == (lost.upstream, lost.came_in)


async def test_a_large_envelope_comes_from_downstream(
    adoption: Adoption, store: MemoryStore
) -> None:
    unsent: Item = ("order", Side.UPSTREAM, Outcome.EXECUTED, None)
    lost = await heard(adoption, store, unsent, SHIPS)
    assert ("order", ORDER) == (lost.upstream, lost.came_in)
