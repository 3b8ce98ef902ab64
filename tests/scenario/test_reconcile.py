"""A restored database asks the neighbours for what it lacks: nothing stands unseen (case 8)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.bootstrap import open_database
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment
from stage.engine.embedded.commands import EmbeddedCommands
from stage.engine.reconcile import MARGIN_SECONDS, Reconciler, Reconciliation
from stage.ports.connection import Connection
from stage.ports.reconcile import UNREADABLE
from stage.ports.store import UNKEPT
from stage.store.sqlite import unit as sqlite_unit
from stage.wire.envelope import format_instant, parse_instant
from tests.scenario.chain import Chain, running_chain
from tests.scenario.restored import RestoredChain, restored_chain
from tests.scenario.test_erasure import cut_off
from tests.scenario.test_operator import do, stuck
from tests.scenario.test_retention import dated, until_counted

pytestmark = pytest.mark.blocking

SINCE = "since=2020-01-01T00:00:00Z"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoredChain]:
    async with restored_chain(tmp_path) as running:
        yield running


async def lose(world: RestoredChain, *saga_ids: str) -> None:
    """Complete these sagas after the backup, and put the backup back."""
    async with world.serving():
        assert 200 == await world.order("kept")
        await world.back_up()
        for saga_id in saga_ids:
            assert 200 == await world.order(saga_id)
    world.put_back()


async def compensated(chain: Chain, saga_id: str) -> dict[str, Any]:
    """The view of the saga once it is compensated."""
    view: dict[str, Any] = await chain.until(saga_id, lambda view: view["state"] == "compensated")
    return view


async def test_a_saga_that_was_dropped_for_its_age_is_not_taken_for_lost(
    world: RestoredChain, tmp_path: Path
) -> None:
    """It ended before the backup. Adopted it would wait for a person, or be undone again."""
    old = dated(10)
    kept = world.config
    world.config = replace(kept, compensation_window_seconds=0.0, rows_retention_days=0.0)
    async with world.serving():
        assert 200 == await world.order(old)
        await until_counted(tmp_path, 0)
        await world.back_up()
    world.config = kept
    async with world.serving():
        assert 200 == await world.order("s-1")
    world.put_back()
    found = await world.reconcile()
    assert {"order": 2, "shipping": 2} == found.asked
    assert {"order": {old}, "shipping": {old}} == found.dropped
    assert ["s-1"] == [saga.id for saga in found.lost]


async def test_a_lost_saga_is_adopted_and_shown_as_may_stand(world: RestoredChain) -> None:
    """Its neighbours say executed: it waits for a person, and no answer says that nothing stands.

    Its own id is answered 202, never run again.
    """
    await lose(world, "s-1")
    lost_at = time.time()
    found = await world.reconcile()
    assert {"order": 2, "shipping": 2} == found.asked
    assert ["s-1"] == [saga.id for saga in found.lost]
    async with world.serving() as chain:
        view = await chain.view("s-1")
        assert parse_instant(view["accepted_at"]) < lost_at, "downstream has it since then"
        assert ("active", "lost", "may_stand") == (
            view["state"], view["parked_cause"], view["standing"],
        )  # fmt: skip
        assert ["charge", "forward:shipping"] == sorted(view["may_stand"])
        assert "order says executed; shipping says executed" in view["parked_reason"]
        assert 202 == (await chain.send("s-1"))[0]
        assert (2, 2) == await chain.charges()


async def test_an_age_that_is_too_late_hides_no_lost_saga(
    world: RestoredChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backup was made by a clock on the wall, and its time was given as UTC."""
    asked: list[float] = []
    ask = Reconciler.ask

    async def recorded(self: Reconciler, peers: Sequence[str], since: float) -> Reconciliation:
        asked.append(since)
        return await ask(self, peers, since)

    monkeypatch.setattr(Reconciler, "ask", recorded)
    async with world.serving():
        assert 200 == await world.order("kept")
        await world.back_up()
        before = time.time()
        assert 200 == await world.order("s-1")
    world.put_back(as_of=format_instant(before + 5 * 3600.0))
    found = await world.reconcile()
    assert asked[0] < before - MARGIN_SECONDS
    assert (["s-1"], True) == ([saga.id for saga in found.lost], found.whole)


def test_a_backup_without_a_saga_lacks_all_since_its_birth(tmp_path: Path) -> None:
    """The age that is given for it counts for nothing."""
    config = Config(database=f"sqlite:///{tmp_path / 'payment.db'}")
    with open_database(payment, config, make=True):
        pass
    with open_database(payment, config) as database:
        identity = database.restored(time.time() + 5 * 3600.0).identity
    assert identity.born_at == identity.restored_as_of


async def test_an_adopted_saga_is_undone_without_its_results(world: RestoredChain) -> None:
    """Upstream asks: shipping is compensated, and the charge is refunded by its key alone."""
    await lose(world, "s-1")
    await world.reconcile()
    async with world.serving() as chain:
        status, _, _ = await chain.compensate("s-1")
        assert status in (200, 202)
        await compensated(chain, "s-1")
        assert (2, 1) == await chain.charges()
        shipped = await chain.shipped("s-1")
        assert shipped is not None and 0 == shipped["standing"]
        kept = await chain.shipped("kept")
        assert kept is not None and 1 == kept["standing"]


async def test_a_request_that_came_while_it_was_unknown_is_carried_out(
    world: RestoredChain,
) -> None:
    """503 to upstream and 409 to downstream are kept over a restart; reconcile has them undone."""
    await lose(world, "s-1", "s-2")
    async with world.serving() as chain:
        assert 503 == (await chain.compensate("s-1"))[0]
        assert 409 == (await chain.compensate("s-2", by="shipping"))[0]
    async with world.serving() as chain:
        _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
        assert b"\nstage_lost_sagas 2.0\n" in metrics
    await world.reconcile()
    async with world.serving() as chain:
        await compensated(chain, "s-1")
        await compensated(chain, "s-2")
        assert (3, 1) == await chain.charges()
        _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
        assert b"\nstage_lost_sagas 0.0\n" in metrics


async def test_a_request_of_another_upstream_undoes_no_lost_saga(world: RestoredChain) -> None:
    """It asked while nobody here knew whose the saga is: a person reads it, and its upstream may
    still have it undone."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        assert 503 == (await chain.compensate("s-1", by="billing"))[0]
    await world.reconcile()
    world.release()
    async with world.serving() as chain:
        view = await chain.view("s-1")
        assert ("active", "lost") == (view["state"], view["parked_cause"])
        assert "billing asks to compensate it" in view["parked_reason"]
        assert 403 == (await chain.compensate("s-1", by="billing"))[0]
        assert (2, 2) == await chain.charges()
        assert (await chain.compensate("s-1"))[0] in (200, 202)
        await compensated(chain, "s-1")
        assert (2, 1) == await chain.charges()


async def test_a_saga_that_upstream_knows_to_be_undone_is_a_tombstone(world: RestoredChain) -> None:
    """It has our own word that nothing stands: no person is asked."""
    async with world.serving() as chain:
        await world.back_up()
        assert 200 == await world.order("s-1")
        url = f"{chain.order}/sagas/s-1/compensate"
        body = msgspec.json.encode({"requested_by": "operator", "reason": "no"})
        assert 200 == (await chain.request("POST", url, body))[0]
    world.put_back()
    found = await world.reconcile()
    assert [False] == [saga.may_stand for saga in found.lost]
    async with world.serving() as chain:
        assert "compensated" == (await chain.view("s-1"))["state"]
        assert (1, 0) == await chain.charges()


async def test_a_dry_run_changes_nothing(world: RestoredChain) -> None:
    """It shows what would be adopted."""
    await lose(world, "s-1")
    assert 1 == len((await world.reconcile(dry_run=True)).lost)
    with closing(sqlite3.connect(world.path)) as connection:
        assert [("kept",)] == connection.execute("SELECT id FROM saga").fetchall()
    with pytest.raises(ConfigurationError, match="order, shipping were not asked"):
        world.release()


async def test_a_release_needs_the_word_of_every_neighbour(world: RestoredChain) -> None:
    """One that cannot be asked has to be left out by name, with a reason."""
    await lose(world)
    found = await world.reconcile(shipping="its disk burnt")
    assert {"order"} == found.asked.keys()
    world.release()
    async with world.serving() as chain:
        assert 200 == (await chain.request("GET", f"{chain.stage}/readyz"))[0]


async def test_no_release_says_that_nothing_stands_of_a_saga_that_was_asked_for(
    world: RestoredChain,
) -> None:
    """Its upstream was left out, and asks later: the request that was kept is its only proof."""
    await lose(world, "s-1")
    left_out = "its books were read"
    await world.reconcile(order=left_out, shipping=left_out)
    async with world.serving() as chain:
        assert 503 == (await chain.compensate("s-1"))[0]
    with pytest.raises(
        ConfigurationError, match=r"stands: s-1\. Take over .* by `stage reconcile`"
    ):
        world.release()
    await world.reconcile()
    world.release()
    async with world.serving() as chain:
        await compensated(chain, "s-1")
        assert (2, 1) == await chain.charges()


async def test_no_release_over_a_request_for_which_there_was_no_room(
    world: RestoredChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its saga was answered *compensated* behind the release, while its charge stood."""
    monkeypatch.setattr(sqlite_unit, "LOST_SAGAS_MAX", 1)
    await lose(world, "s-1", "s-2")
    left_out = "its books were read"
    await world.reconcile(order=left_out, shipping=left_out)
    for saga_id in ("s-1", "s-2"):
        async with world.serving() as chain:
            for asked in ("s-1", "s-2"):
                assert (await chain.compensate(asked))[0] in (200, 202, 503)
        with pytest.raises(ConfigurationError, match=rf"stands: \+more, {saga_id}\. .* the last"):
            world.release()
        await world.reconcile(order=left_out, shipping=left_out)
    with pytest.raises(ConfigurationError, match=r"1 sagas .* stands: \+more\. "):
        world.release()
    world.release({UNKEPT: "both orders were asked for again"})
    async with world.serving() as chain:
        for saga_id in ("s-1", "s-2"):
            await chain.compensate(saga_id)
            await compensated(chain, saga_id)
        assert (3, 1) == await chain.charges()


async def test_a_saga_that_was_dropped_for_its_age_holds_up_no_release(
    world: RestoredChain, tmp_path: Path
) -> None:
    """It is answered 409 `unknown` afterwards too: no release says that nothing of it stands."""
    old = dated(10)
    kept = world.config
    world.config = replace(kept, compensation_window_seconds=0.0, rows_retention_days=0.0)
    async with world.serving() as chain:
        assert 200 == await world.order(old)
        await until_counted(tmp_path, 0)
        await world.back_up()
    world.config = kept
    world.put_back()
    async with world.serving() as chain:
        assert 503 == (await chain.compensate(old))[0]
    found = await world.reconcile()
    assert ([], {"order": {old}, "shipping": {old}}) == (found.lost, found.dropped)
    world.release()
    async with world.serving() as chain:
        assert 409 == (await chain.compensate(old))[0]
        assert (1, 1) == await chain.charges()


async def test_answers_from_later_than_the_backup_allow_no_release(world: RestoredChain) -> None:
    """A saga between may be missing that nobody was asked for."""
    await lose(world, "s-1")
    await world.reconcile(since="2020-01-01T00:00:01Z")
    with pytest.raises(ConfigurationError, match="order, shipping were not asked"):
        world.release()
    await world.reconcile()
    world.release()


async def test_a_neighbour_that_is_renamed_within_a_restoration_holds_up_no_release(
    world: RestoredChain,
) -> None:
    """Answers that were withdrawn under its former name are given under the one of today."""
    await lose(world, "s-1")
    with open_database(payment, world.config) as database:
        database.reconciled({"shop": "", "shipping": ""})
    connection = Connection(url=world.chain.order, formerly=("shop",))
    world.config = replace(world.config, upstreams={"order": connection})
    await world.reconcile()
    world.release()


async def test_a_name_that_a_release_waits_for_can_be_answered_for(world: RestoredChain) -> None:
    """It was named no neighbour: renamed since, or all sagas that it had opened were closed."""
    await lose(world, "s-1")
    with open_database(payment, world.config) as database:
        database.reconciled({"shop": "", "order": ""})
    with pytest.raises(ConfigurationError, match="web is no neighbour"):
        await world.reconcile(web="gone")
    found = await world.reconcile(shop="it is order today")
    assert {"order": 2, "shipping": 2} == found.asked
    world.release()


async def test_a_request_of_a_renamed_upstream_is_carried_out(world: RestoredChain) -> None:
    """It was parked for a person, as that of a stranger, since the saga has the name of then."""
    await lose(world, "s-1")
    connection = Connection(url=world.chain.order, formerly=("order",))
    world.config = replace(world.config, upstreams={"orders": connection})
    async with world.serving() as chain:
        assert 503 == (await chain.compensate("s-1", by="orders"))[0]
    await world.reconcile()
    async with world.serving() as chain:
        await compensated(chain, "s-1")


async def test_a_neighbour_that_is_not_configured_any_more_is_named(world: RestoredChain) -> None:
    """It has opened sagas of the backup, and may have opened others since: somebody has to ask."""
    async with world.serving() as chain:
        assert 200 == (await chain.send("s-web", via="web"))[0]
        await world.back_up()
    world.put_back()

    assert {"web": 1} == (await world.reconcile()).unnamed
    with pytest.raises(ConfigurationError, match="web was not asked"):
        world.release()
    assert {} == (await world.reconcile(web="it is gone")).unnamed
    world.release()


async def test_a_saga_whose_envelope_cannot_be_read_has_to_be_answered_for(
    world: RestoredChain,
) -> None:
    """Its opener is unknown, and may be a neighbour that was not asked."""
    await lose(world)
    with closing(sqlite3.connect(world.path)) as database:
        database.execute("UPDATE saga SET envelope = x'7b' WHERE id = 'kept'")
        database.commit()
    assert {UNREADABLE: 1} == (await world.reconcile()).unnamed
    with pytest.raises(ConfigurationError, match=f"{UNREADABLE} was not asked"):
        world.release()
    await world.reconcile(UNREADABLE="the page is torn, and order opened it")
    world.release()


async def test_each_restore_has_to_be_reconciled_anew(world: RestoredChain) -> None:
    """The answers to the generation before prove nothing."""
    await lose(world)
    await world.reconcile()
    world.put_back()
    with pytest.raises(ConfigurationError, match="stage reconcile"):
        world.release()


async def test_a_second_reconciliation_changes_nothing(world: RestoredChain) -> None:
    """An adopted saga is known."""
    await lose(world, "s-1")
    await world.reconcile()
    found = await world.reconcile()
    assert [] == found.lost
    assert [] == found.differences


async def test_a_saga_that_the_backup_has_in_another_state_is_reported(
    world: RestoredChain,
) -> None:
    """The backup says completed; upstream knows that it was compensated since."""
    async with world.serving() as chain:
        assert 200 == await world.order("s-1")
        await world.back_up()
        url = f"{chain.order}/sagas/s-1/compensate"
        assert 200 == (await chain.request("POST", url, b'{"requested_by": "operator"}'))[0]
    world.put_back()
    found = await world.reconcile()
    assert {("s-1", "order"), ("s-1", "shipping")} == {
        (each.saga_id, each.neighbour) for each in found.differences
    }


# --- the list itself ---------------------------------------------------------------------------


async def shared(chain: Chain, query: str) -> tuple[int, dict[str, Any]]:
    """The list that a neighbour gets."""
    status, _, body = await chain.request("GET", f"{chain.stage}/sagas?{query}")
    return status, msgspec.json.decode(body)


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path) as running:
        yield running


async def test_a_neighbour_gets_the_sagas_that_it_shares(chain: Chain) -> None:
    """From upstream those that it opened, from downstream those that were handed to it."""
    assert 200 == (await chain.send("s-1"))[0]
    assert 200 == (await chain.send("s-2", via="other"))[0]
    for asker, ids, side in (
        ("order", ["s-1"], "downstream"),
        ("other", ["s-2"], "downstream"),
        ("shipping", ["s-1", "s-2"], "upstream"),
        ("stranger", [], ""),
    ):
        status, page = await shared(chain, f"{SINCE}&with={asker}")
        assert (200, asker) == (status, page["shared_with"])
        assert [(each, side, "executed") for each in ids] == [
            (saga["saga_id"], saga["side"], saga["outcome"]) for saga in page["sagas"]
        ]
    _, page = await shared(chain, f"{SINCE}&with=shipping")
    assert {"saga_id", "protocol", "data", "trail", "deadline"} == page["sagas"][0][
        "envelope"
    ].keys()
    assert "payment" in page["sagas"][0]["envelope"]["data"], "as it was handed on"
    _, page = await shared(chain, f"{SINCE}&with=order")
    assert "payment" not in page["sagas"][0]["envelope"]["data"], "as it came"
    assert [] == (await shared(chain, "since=2100-01-01T00:00:00Z&with=order"))[1]["sagas"]


async def test_a_neighbour_that_undid_only_a_part_finds_it_unknown(chain: Chain) -> None:
    """Its copy may have it completed, and `executed` would show no difference (seed 2957)."""
    assert 200 == (await chain.send("s-1"))[0]
    await chain.script(chain.shipping, script="compensate-fails")
    assert 409 == (await chain.compensate("s-1"))[0]
    _, page = await shared(chain, f"{SINCE}&with=shipping")
    assert [("s-1", "unknown")] == [(each["saga_id"], each["outcome"]) for each in page["sagas"]]


@pytest.mark.parametrize("verb", ["forget", "erase"])
async def test_a_closed_saga_stays_in_the_list_with_its_outcome(chain: Chain, verb: str) -> None:
    """A neighbour that lost it would take it for one that was never here, and run it again."""
    assert 200 == (await chain.send("s-1"))[0]
    assert 200 == (await chain.send("s-2"))[0]
    assert 200 == (await chain.compensate("s-2"))[0]
    for saga_id in ("s-1", "s-2"):
        assert 200 == (await do(chain, saga_id, verb))[0]
    ends = [("s-1", "executed", None), ("s-2", "compensated", None)]
    for asker, found in (("order", ends), ("shipping", ends), ("stranger", [])):
        _, page = await shared(chain, f"{SINCE}&with={asker}")
        sagas = page["sagas"]
        assert found == [(each["saga_id"], each["outcome"], each["envelope"]) for each in sagas]


@pytest.mark.parametrize("closed", [True, False])
async def test_a_saga_that_was_given_up_is_listed_as_unknown(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    """Its effects may stand here, also while it is not closed yet."""
    await stuck(chain)
    if not closed:
        monkeypatch.setattr(EmbeddedCommands, "_close", cut_off)
    assert 200 == (await do(chain, "s-1", "forget"))[0]
    for asker in ("order", "shipping"):
        _, page = await shared(chain, f"{SINCE}&with={asker}")
        assert [("s-1", "unknown")] == [(it["saga_id"], it["outcome"]) for it in page["sagas"]]


async def test_the_list_is_paged_and_misses_no_saga(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`next` is the `after` of the next page; also a page without a shared saga has one."""
    monkeypatch.setattr("stage.inbound.shared.SHARED_PAGE_MAX", 2)
    for number in range(5):
        via = "other" if number in (2, 3) else "order"
        assert 200 == (await chain.send(f"s-{number}", via=via))[0]
    found, pages, after = [], 0, ""
    while True:
        status, page = await shared(chain, f"{SINCE}&with=order{after}")
        assert 200 == status
        found += [saga["saga_id"] for saga in page["sagas"]]
        pages += 1
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert (["s-0", "s-1", "s-4"], 3) == (found, pages)


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday&with=order",
        f"{SINCE}",
        f"{SINCE}&with=No Name",
        f"{SINCE}&with=order&after=x",
        f"{SINCE}&with=order&after=1e400/x",
    ],
)
async def test_a_query_that_is_not_understood_is_refused(chain: Chain, query: str) -> None:
    """400 with the fix."""
    status, problem = await shared(chain, query.replace(" ", "%20"))
    assert 400 == status
    assert problem["hint"]


async def test_a_stage_that_was_restored_itself_gives_no_list(world: RestoredChain) -> None:
    """Its list would not be whole: 503, so that the neighbour asks again after the release."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        status, problem = await shared(chain, f"{SINCE}&with=order")
        assert (503, "unknown") == (status, problem["outcome"])
    await world.reconcile()
    world.release()
    async with world.serving() as chain:
        status, page = await shared(chain, f"{SINCE}&with=shipping")
        assert {"s-1": "unknown", "kept": "executed"} == {
            saga["saga_id"]: saga["outcome"] for saga in page["sagas"]
        }
    with open_database(payment, world.config) as database:
        assert [] == database.unreconciled(("order", "shipping"))
