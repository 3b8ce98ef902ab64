"""Rows with words that only a newer release knows, beside those that this one can read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from stage.core.errors import NewerJournal
from stage.core.pause import Pause, Way
from stage.core.states import ParkCause, SagaState
from stage.core.sweep import Sweep
from stage.core.sweep_verbs import SweepVerb
from stage.ports.store import Filter, Store, Term
from stage.store import rows
from stage.store.sealed import SealedCodec, new_key_line, parse_keys
from tests.unit.store.conftest import opened
from tests.unit.store.given import AT, accepted, inserting, row
from tests.unit.store.test_for_operators import put

OURS = ("a", "c", "e")
THEIRS = ("b", "d")
"""Sagas in a state that only the newer release knows."""


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database, which holds words."""
    if request.param == "sqlite":
        return str(tmp_path / "stage.db")
    url: str = request.getfixturevalue("migrated_url")
    return url


@pytest.fixture
async def held(database: str, migrations: Path) -> AsyncIterator[Store]:
    """A store there."""
    async with opened(database, migrations) as store:
        yield store


async def fill(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sagas of this release and of a newer one, of which this one forgets the words."""
    for saga_id in sorted((*OURS, *THEIRS)):
        state = SagaState.FAILED_TO_COMPENSATE if saga_id in THEIRS else SagaState.ACTIVE
        await store.transact(inserting(saga_id, row(saga_id, state=state)))
    cause = ParkCause.LOST_RUNS
    parked = row("f", parked="it failed", parked_cause=cause)
    await store.transact(inserting("f", replace(parked, step="charge")))
    monkeypatch.delitem(rows._STATES, SagaState.FAILED_TO_COMPENSATE.value)
    monkeypatch.delitem(rows._CAUSES, cause.value)


async def test_a_page_goes_on_behind_sagas_of_a_newer_release(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saga in a state that is unknown here is left out, and makes room for the next one.

    A saga that is parked for a cause that is unknown here has its reason. A page that lacks a part
    would be taken for the last one.
    """
    await fill(held, monkeypatch)
    assert [*OURS, "f"] == [found.id for found in await held.page(Filter())]
    assert ["a", "c"] == [found.id for found in await held.page(Filter(limit=2))]
    behind = await held.page(Filter(limit=2, after="c"))
    assert [("e", ""), ("f", "it failed")] == [(found.id, found.parked) for found in behind]
    with pytest.raises(NewerJournal):
        await held.get("f")  # one that is to be run, or answered for, is that release's


async def test_a_saga_of_a_newer_release_is_not_missed_by_its_number(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A webhook would be acknowledged, and lost."""
    number = Term("order", "o-1")
    given = row("s-1", state=SagaState.FAILED_TO_COMPENSATE)
    await held.transact(lambda unit: unit.insert(given, accepted(), [number]))
    monkeypatch.delitem(rows._STATES, given.state.value)
    with pytest.raises(NewerJournal):
        await held.page(Filter(term=number))


async def test_counts_and_groups_go_on_beside_sagas_of_a_newer_release(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gauge that fails would keep the values of before. Sagas parked so count as newer ones."""
    await fill(held, monkeypatch)
    assert 4 == (await held.count())[SagaState.ACTIVE]
    backlog = await held.backlog(AT)
    assert ({}, 1) == (dict(backlog.parked), backlog.newer)
    assert [] == await held.groups()


async def test_orders_of_a_newer_release_are_left_to_it(
    held: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start reads the pauses, and each look at the sweeps all of them."""
    usual = Sweep(at=1.0, actor="kim", verb=SweepVerb.RETRY, reason="x", rate_per_second=1.0)
    first = await held.transact(lambda unit: unit.begin_sweep(usual, ["a"]))
    theirs = replace(usual, verb=SweepVerb.PURGE)
    second = await held.transact(lambda unit: unit.begin_sweep(theirs, ["a"]))
    for way in Way:
        pause = Pause(target="externals.psp", way=way, at=1.0, until=9e9, actor="kim", reason="x")
        await held.transact(partial(put, pause))
    monkeypatch.setattr(rows, "_VERBS", rows._VERBS - {SweepVerb.PURGE.value})
    monkeypatch.setattr(rows, "_WAYS", rows._WAYS - {Way.BACKWARD.value})
    assert [first] == [found.number for found in await held.sweeps(9)]
    assert [first] == [found.number for found in await held.unfinished_sweeps(9)]
    with pytest.raises(NewerJournal, match=rf"sweep {second} is one to 'purge'"):
        await held.sweeps(1, second)
    assert [Way.FORWARD] == [found.way for found in await held.pauses()]


def test_a_list_needs_no_key_to_contents_that_it_does_not_show() -> None:
    """A process that began before there was the newest key lists the sagas that were written since.

    The contents of one saga are left to a process that has the key.
    """
    old, new = parse_keys(f"{new_key_line()}\n{new_key_line()}")
    newer, older = SealedCodec((new, old)), SealedCodec((old,))
    written = replace(row("s-1"), envelope=b"")
    columns = rows.parameters(written, newer)
    read = (*columns[:15], None, *columns[15:])
    with pytest.raises(NewerJournal):
        rows.saga_row(read, older)
    listed = rows.listed_row(read, older)
    assert listed == replace(written, fingerprint="", answer_body=b"")
