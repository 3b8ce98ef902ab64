"""How many sagas a sweep is for, where its filter names more than a sweep may have."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stage.core.sweep import SWEEP_SAGAS_MAX, Sweep
from stage.core.sweep_verbs import SweepVerb
from stage.inbound import sweeps
from stage.ports.store import Filter
from stage.wire.problem import WireError
from stage.wire.views import SweepView, decode_view

MOST = SWEEP_SAGAS_MAX


class Ended:
    """An engine with so many sagas that ended long ago."""

    def __init__(self, sagas: int) -> None:
        self.rows = [SimpleNamespace(id=f"{number:06}") for number in range(sagas)]
        self.begun: list[str] = []

    async def page(self, which: Filter) -> list[Any]:
        """As the engine of a process."""
        first = int(which.after or -1) + 1
        return self.rows[first : first + which.limit]

    async def begin_sweep(self, sweep: Sweep, saga_ids: Sequence[str], _: object) -> int:
        """Keep its sagas."""
        self.begun, self.sweep = list(saga_ids), sweep
        return 1

    async def sweeps(self, _: int, number: int) -> list[Sweep]:
        """The one that was begun."""
        return [self.sweep]

    async def sweep_sagas(self, *_: object) -> list[tuple[str, str]]:
        """None was refused."""
        return []


async def begin(engine: Ended, verb: SweepVerb, *, dry_run: bool, ids: Sequence[str] = ()) -> Any:
    """Order a sweep over them; its view."""
    clock = SimpleNamespace(now=lambda: 1.0)
    where: dict[str, str | list[str]] = {} if ids else {"state": ["completed"]}
    order = sweeps.SweepOrder(
        verb=verb, reason="r", where=where, saga_ids=list(ids), dry_run=dry_run, actor="kim"
    )
    service = cast(Any, SimpleNamespace(engine=engine, clock=clock))
    answer = await sweeps._begin(service, order, None)
    assert isinstance(answer.body, bytes)
    return decode_view(answer.body, SweepView)


@pytest.fixture(autouse=True)
def filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter names all of them."""
    monkeypatch.setattr(sweeps, "filter_of", lambda *_: Filter(limit=sweeps.PAGE))


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "sagas, taken, left",
    [(MOST, MOST, None), (MOST + 7, MOST, 7), (3 * MOST, MOST, MOST), (3, 3, None)],
)
async def test_a_purge_takes_the_first_and_says_how_many_are_left(
    sagas: int, taken: int, left: int | None, dry_run: bool
) -> None:
    """Its command said so, and was refused: "there are 20500 sagas, or one is named twice"."""
    engine = Ended(sagas)
    shown = await begin(engine, SweepVerb.PURGE, dry_run=dry_run)
    assert (taken, left) == (shown.sagas, shown.left)
    first = [row.id for row in engine.rows[:taken]]
    assert ([] if dry_run else first) == engine.begun


async def test_any_other_sweep_over_too_many_is_refused_with_its_limit() -> None:
    """Nobody has counted them all: the number was that of the pages that were read."""
    with pytest.raises(WireError, match="more than 20,000 sagas"):
        await begin(Ended(MOST + 700), SweepVerb.RETRY, dry_run=True)
    with pytest.raises(WireError, match="named twice"):
        await begin(Ended(0), SweepVerb.PURGE, dry_run=True, ids=["s-1", "s-1"])
    ids = [row.id for row in Ended(MOST + 1).rows]
    with pytest.raises(WireError, match="more than 20,000 sagas"):
        await begin(Ended(0), SweepVerb.PURGE, dry_run=True, ids=ids)
