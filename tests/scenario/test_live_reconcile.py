"""A restored stage that is up asks its neighbours, and a person takes over what it lacks."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.bootstrap import reconcile
from stage.core.errors import ConfigurationError
from stage.engine.live_reconcile import Reconciling
from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.chain import Chain, running_chain
from tests.scenario.releases import payment as release
from tests.scenario.restored import RestoredChain, restored_chain
from tests.scenario.test_console import Fields, press, see
from tests.scenario.test_reconcile import compensated, lose

pytestmark = pytest.mark.blocking

WHO = {"actor": "kim", "reason": "the disk burnt"}
NOBODY = "http://127.0.0.1:9"
"""The port of discard, where nobody listens."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoredChain]:
    async with restored_chain(tmp_path) as running:
        yield running


async def ask(chain: Chain, **order: Any) -> tuple[int, dict[str, Any]]:
    """Send an order to reconcile; the code and the answer."""
    url = f"{chain.stage}/reconcile"
    body = msgspec.json.encode({**WHO, "no_other_shard": True, **order})
    status, _, body = await chain.request("POST", url, body)
    return status, msgspec.json.decode(body)


async def test_asking_changes_nothing_and_names_what_is_missing(world: RestoredChain) -> None:
    """Each missing saga with the words of both neighbours; it stays unknown."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        status, found = await ask(chain, dry_run=True)
        assert (200, 1, 0) == (status, found["missing"], found["adopted"])
        assert {"order": 2, "shipping": 2} == found["asked"]
        said = [(each["neighbour"], each["said"]) for each in found["sagas"][0]["said"]]
        assert [("order", "executed"), ("shipping", "executed")] == said
        assert 503 == (await chain.compensate("s-1"))[0], "it is as unknown as before"


async def test_the_chosen_ones_are_taken_over_and_no_release_follows_yet(
    world: RestoredChain,
) -> None:
    """The one left out was not given up: the release waits for it. Then all, and it is released."""
    await lose(world, "s-1", "s-2")
    async with world.serving() as chain:
        _, found = await ask(chain, saga_ids=["s-2"])
        assert (2, 1) == (found["missing"], found["adopted"])
        view = await chain.view("s-2")
        assert ("lost", "may_stand") == (view["parked_cause"], view["standing"])
        acts = (await chain.get(f"{chain.stage}/audit?target=s-2"))["acts"]
        assert [("adopted", "kim", "the disk burnt", "not here")] == [
            (act["act"], act["actor"], act["reason"], act["before"]) for act in acts
        ]
    with pytest.raises(ConfigurationError, match="order, shipping were not asked"):
        world.release()
    async with world.serving() as chain:
        _, found = await ask(chain)
        assert (1, 1) == (found["missing"], found["adopted"])
    world.release()
    async with world.serving() as chain:
        assert 409 == (await ask(chain))[0], "nothing is taken over once it is released"


async def test_all_are_taken_over_only_where_the_stage_has_no_other_shard(
    world: RestoredChain,
) -> None:
    """A neighbour lists the sagas of all shards: those of another one are well there."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        status, problem = await ask(chain, no_other_shard=False)
        assert 409 == status and "1 sagas are missing" in problem["detail"]
        for fix in ("no_other_shard", "saga_ids", "stage reconcile --beside URL"):
            assert fix in problem["detail"]
        assert 503 == (await chain.request("GET", f"{chain.stage}/sagas/s-1"))[0]
        _, _, page = await press(chain, "/reconcile", {"press": "ask"})
        assert "this stage has no other shard" in page and "--beside" in page
        assert 1 == (await ask(chain))[1]["adopted"]
        assert 200 == (await ask(chain, no_other_shard=False))[0], "nothing is missing"


async def test_a_shard_takes_over_its_own_sagas_and_is_released(world: RestoredChain) -> None:
    """s-2 is well at another shard, and is never begun here."""
    await lose(world, "s-1", "s-2")
    async with world.serving() as chain:
        assert 1 == (await ask(chain, saga_ids=["s-1"]))[1]["adopted"]
    left = "its sagas of this shard were taken over"
    assert [] == (await world.reconcile(order=left, shipping=left)).lost
    world.release()
    async with world.serving() as chain:
        assert "lost" == (await chain.view("s-1"))["parked_cause"]
        assert 404 == (await chain.request("GET", f"{chain.stage}/sagas/s-2"))[0]
        assert (3, 3) == await chain.charges()


async def test_answers_from_later_than_the_backup_allow_no_release(world: RestoredChain) -> None:
    """A saga between may be missing that nobody was asked for, though all that is was adopted."""
    await lose(world)
    async with world.serving() as chain:
        _, found = await ask(chain, since="2020-01-01T00:00:01Z")
        assert (0, 0) == (found["missing"], found["adopted"])
        assert found["too_late"] and not found["counts_for_release"]
        _, shown = await ask(chain, dry_run=True)
        assert not shown["too_late"] and not shown["counts_for_release"]
        later = {"press": "ask", "since": "2020-01-01T00:00:01Z"}
        assert "does not count this" in (await press(chain, "/reconcile", later))[2]
        page = (await press(chain, "/reconcile", {"press": "ask"}))[2]
        assert "does not count this" not in page
    with pytest.raises(ConfigurationError, match="order, shipping were not asked"):
        world.release()


async def test_the_page_says_in_words_that_an_envelope_cannot_be_read(
    world: RestoredChain,
) -> None:
    """`UNREADABLE` is the name under which it is answered for, and nobody's."""
    await lose(world)
    with closing(sqlite3.connect(world.path)) as database:
        database.execute("UPDATE saga SET envelope = x'7b' WHERE id = 'kept'")
        database.commit()
    async with world.serving() as chain:
        page = (await press(chain, "/reconcile", {"press": "ask"}))[2]
    assert "1 sagas have an envelope that cannot be read" in page
    assert "UNREADABLE opened" not in page


async def test_an_answer_kept_earlier_does_not_outlive_a_later_finding(
    world: RestoredChain,
) -> None:
    """The neighbours were left out and are back: the saga that they name has to be taken over."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        await ask(chain, without={"order": "it is down", "shipping": "it is down"})
        _, found = await ask(chain, saga_ids=[])
        assert (1, 0) == (found["missing"], found["adopted"])
    with pytest.raises(ConfigurationError, match="order, shipping were not asked"):
        world.release()
    async with world.serving() as chain:
        await ask(chain)
    world.release()


async def test_those_taken_over_are_compensated_by_a_sweep(world: RestoredChain) -> None:
    """The charge is refunded by its key alone, while the stage is up all the time."""
    await lose(world, "s-1", "s-2")
    async with world.serving() as chain:
        _, found = await ask(chain, compensate=True, rate_per_second=100)
        assert 2 == (await chain.get(f"{chain.stage}/sweeps/{found['sweep']}"))["sagas"]
        await compensated(chain, "s-1")
        await compensated(chain, "s-2")
        assert (3, 1) == await chain.charges()


async def test_one_that_was_asked_for_is_compensated_without_a_sweep(world: RestoredChain) -> None:
    """Upstream asked while it was unknown: taken over, it is undone as that ordered."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        assert 503 == (await chain.compensate("s-1"))[0]
        _, found = await ask(chain, compensate=True)
        assert (1, None) == (found["adopted"], found["sweep"])
        assert "order" == found["sagas"][0]["asked_by"]
        await compensated(chain, "s-1")


async def test_one_that_is_asked_for_during_the_adoption_is_compensated_too(
    world: RestoredChain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is kept behind the questions to the neighbours, and before the saga is here."""
    await lose(world, "s-1")
    async with world.serving() as chain:
        adopt = Reconciling._adopt

        async def asked_for(self: Reconciling, *given: Any) -> list[str]:
            assert 409 == (await chain.compensate("s-1", by="shipping"))[0]
            return await adopt(self, *given)

        monkeypatch.setattr(Reconciling, "_adopt", asked_for)
        _, found = await ask(chain)
        assert 1 == found["adopted"]
        await compensated(chain, "s-1")


async def test_a_neighbour_that_is_away_is_named_and_can_be_left_out(world: RestoredChain) -> None:
    """It is no answer that one could not be asked; with a reason it counts as one."""
    await lose(world)
    world.config = replace(world.config, downstreams={"shipping": NOBODY})
    async with world.serving() as chain:
        _, found = await ask(chain)
        assert {"shipping"} == found["unanswered"].keys()
    with pytest.raises(ConfigurationError, match="shipping was not asked"):
        world.release()
    async with world.serving() as chain:
        _, found = await ask(chain, without={"shipping": "its disk burnt"})
        assert {"order"} == found["asked"].keys()
        status, problem = await ask(chain, without={"nobody": "gone"})
        assert 409 == status and "no neighbour" in problem["detail"]
        assert 422 == (await ask(chain, without={"shipping": " "}))[0]
    world.release()


async def test_a_stage_that_was_not_restored_is_only_compared(tmp_path: Path) -> None:
    """A saga that it lacks may be on its way: with `since` it is shown, and never taken over."""
    async with running_chain(tmp_path) as chain:
        assert 409 == (await ask(chain, dry_run=True))[0]
        status, found = await ask(chain, dry_run=True, since="2020-01-01T00:00:00Z")
        assert (200, 0) == (status, found["missing"])
        status, problem = await ask(chain, since="2020-01-01T00:00:00Z")
        assert 409 == status and "awaits no release" in problem["detail"]
        for wrong in ("yesterday", "0001-01-01T00:00:00Z"):
            status, problem = await ask(chain, dry_run=True, since=wrong)
            assert 422 == status and "for example" in problem["hint"]


async def test_only_an_admin_takes_over(tmp_path: Path) -> None:
    """A viewer may not ask, an operator may, and adoption is a claim about the database."""
    async with named_chain(tmp_path) as chain:
        url, order = f"{chain.stage}/reconcile", msgspec.json.encode(WHO)
        for name, status in (("vera", 403), ("olga", 403), ("ada", 409)):
            answer = await chain.request("POST", url, order, Authorization=shown_by(name))
            assert status == answer[0], name
        asked = msgspec.json.encode({"dry_run": True, "since": "2020-01-01T00:00:00Z"})
        assert 200 == (await chain.request("POST", url, asked, Authorization=shown_by("olga")))[0]


async def test_the_page_shows_first_and_acts_then(world: RestoredChain) -> None:
    """From the alarm on Now to the sweep: the neighbours' words, a choice, and its reason."""
    await lose(world, "s-1", "s-2")
    async with world.serving() as chain:
        assert "/console/reconcile" in (await see(chain, ""))[1]
        assert "put back from a backup" in (await see(chain, "/reconcile"))[1]
        status, _, page = await press(chain, "/reconcile", {"press": "ask"})
        assert 200 == status and "order: executed" in page and "parked: may stand" in page
        assert "2 sagas that neighbours know and we do not" in page
        hidden = Fields(page).hidden
        chosen = [*hidden, *WHO.items(), ("which", "chosen"), ("saga_id", "s-1"), ("press", "act")]
        status, headers, _ = await press(chain, "/reconcile", chosen)
        assert (303, "/console/reconcile?adopted=1") == (status, headers["Location"])
        assert "1 sagas were taken over" in (await see(chain, "/reconcile?adopted=1"))[1]
        rest = [*hidden, *WHO.items(), ("which", "all"), ("then", "compensate"), ("press", "act")]
        status, headers, _ = await press(chain, "/reconcile", rest)
        assert (303, "/console/sweeps/1") == (status, headers["Location"])
        await compensated(chain, "s-2")
        status, _, page = await press(chain, "/reconcile", {"press": "ask"})
        assert "No saga is missing." in page and "Keep it" in page
        assert 400 == (await press(chain, "/reconcile", {"without": "shipping"}))[0]


async def test_a_saga_that_may_have_run_under_other_names_is_not_taken_over(
    world: RestoredChain,
) -> None:
    """A step was renamed since the backup: an undo would look for its charge under another key."""
    before = release(step="wire")
    after = release(step="charge", renamed={"wire": "charge"})
    world.stage = before
    await lose(world, "s-1")
    world.stage = after
    with pytest.raises(ConfigurationError, match=r"'wire'.*--under-these-names"):
        await world.reconcile()
    async with world.serving() as chain:
        assert 503 == (await chain.compensate("s-1"))[0]
        status, problem = await ask(chain)
        assert 409 == status and "'wire'" in problem["detail"]
        assert "under_these_names" in problem["detail"]
        assert 409 == (await ask(chain, saga_ids=["s-1"]))[0]
        assert "'wire'" in (await ask(chain, dry_run=True))[1]["called_otherwise"]
        assert (2, 2) == await chain.charges()
    world.stage = before
    await world.reconcile()
    world.stage = after
    async with world.serving() as chain:
        await compensated(chain, "s-1")
        assert (2, 1) == await chain.charges()


@pytest.mark.parametrize("command", [False, True])
async def test_a_person_may_say_that_lost_sagas_ran_under_the_names_of_today(
    world: RestoredChain, command: bool
) -> None:
    """On the page too: no saga came between the backup and the deploy."""
    world.stage = release(step="wire")
    async with world.serving():
        assert 200 == await world.order("kept")
        await world.back_up()
    world.stage = release(step="charge", renamed={"wire": "charge"})
    async with world.serving():
        assert 200 == await world.order("s-1")
    world.put_back()
    if command:
        asked = partial(reconcile, world.stage, world.config, since=None, without={})
        assert ["s-1"] == [each.id for each in (await asked(dry_run=True)).lost]
        await asked(dry_run=False, under_these_names=True)
        return world.release()
    async with world.serving() as chain:
        _, _, page = await press(chain, "/reconcile", {"press": "ask"})
        assert "&#39;wire&#39;" in page and 'name="under_these_names"' in page
        order = [*Fields(page).hidden, *WHO.items(), ("which", "all"), ("press", "act")]
        assert 409 == (await press(chain, "/reconcile", order))[0]
        said = [*order, ("under_these_names", "yes"), ("then", "compensate")]
        assert 303 == (await press(chain, "/reconcile", said))[0]
        await compensated(chain, "s-1")
        assert (2, 1) == await chain.charges()
