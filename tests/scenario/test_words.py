"""The words for operators: lost runs, parked sagas and doubts mean what the pages say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.demo.payment import Order
from stage.engine.embedded.engine import EmbeddedEngine
from tests.scenario.chain import Chain, running_chain
from tests.scenario.test_metrics import at_rest, scrape
from tests.scenario.test_operator import do
from tests.waits import until


async def test_a_plain_compensate_is_no_lost_run(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    """A healthy saga is undone: no warning of a recovery, and none is counted or shown."""
    await chain.send("s-1")
    await chain.events("s-1")  # once its end is written down
    await at_rest(chain)
    with caplog.at_level(logging.INFO):
        assert 200 == (await chain.compensate("s-1"))[0]

    assert "recovered" not in caplog.text
    assert 0 == (await scrape(chain)).value("stage_sagas_recovered_total")
    story = await chain.get(f"{chain.stage}/sagas/s-1?view=chain")
    own = next(part for part in story["stages"] if part["stage"] == "payment")
    assert "recovered" not in [event["event"] for event in own["events"]]
    assert "compensated" in [event["event"] for event in own["events"]]
    journal = (await chain.get(f"{chain.stage}/sagas/s-1?view=journal"))["entries"]
    assert [True] == [entry["rested"] for entry in journal if entry["event"] == "recovered"]


async def test_a_run_that_was_lost_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The call was in flight when the process stopped: a warning, and one lost run."""
    async with running_chain(tmp_path, drain_seconds=0.0) as chain:
        await chain.script(chain.psp, script="hang", times=1)
        await chain.send("s-1", Prefer="respond-async")
        await chain.until("s-1", _is_calling)
    async with running_chain(tmp_path) as chain:
        await chain.until("s-1", lambda saga: saga["epoch"] > 1)
        assert 1 == (await scrape(chain)).value("stage_sagas_recovered_total")
    assert "recovered" in caplog.text


def _is_calling(saga: Any) -> bool:
    return any(step["phase"] == "started" for step in saga["steps"])


async def test_a_saga_that_could_not_be_undone_counts_as_parked(chain: Chain) -> None:
    """Its end parks it, without an event of that name."""
    await chain.script(chain.shipping, script="refuse")
    await chain.script(chain.psp, script="refund-fails")
    await chain.send("s-1")
    found = await scrape(chain)

    assert 1 == found.value("stage_parked", cause="failed_to_compensate")
    assert 1 == found.value("stage_sagas_parked_total", cause="failed_to_compensate")


def unrepeatable() -> Stage[Order, Any]:
    """A stage whose call may not be repeated and cannot be looked up."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(
        to="psp", idempotent=False, timeout=2.0, compensation=None, reason="no test undoes it"
    )
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges", json={"amount": saga.input.amount})

    return stage


async def test_a_parked_doubt_is_in_doubt(tmp_path: Path) -> None:
    """The saga left memory when it was parked; the doubt did not leave the world."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        assert 202 == (await chain.send("s-1"))[0]
        assert (await chain.view("s-1"))["parked"]
        await at_rest(chain)
        found = await scrape(chain)
        assert 1 == found.value("stage_in_doubt")
        assert 1 == found.value("stage_sagas_parked_total", cause="in_doubt")
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        assert 1 == (await scrape(chain)).value("stage_in_doubt")


async def test_now_counts_the_doubts_that_the_metric_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of running sagas, and the parked ones: a doubt that got worse was one fewer."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        assert 202 == (await chain.send("s-1"))[0]
        await at_rest(chain)
        for running in (0, 2):
            monkeypatch.setattr(EmbeddedEngine, "in_doubt", running)
            found = await scrape(chain)
            assert running + 1 == found.value("stage_in_doubt")
            assert running + 1 == (await chain.get(f"{chain.stage}/now"))["in_doubt"]


async def test_a_saga_that_was_given_up_stays_closed_whoever_asks(tmp_path: Path) -> None:
    """Callers who wait hear its answer; nothing is journaled of what is only a row any more."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        assert 202 == (await chain.send("s-1"))[0]
        assert 200 == (await do(chain, "s-1", "forget"))[0]
        assert 410 == (await chain.send("s-1"))[0]
        for prefer in ("wait=5", "respond-async"):
            assert 410 == (await chain.send("s-1", Prefer=prefer))[0]
        assert [] == await chain.events("s-1")
        assert 410 == (await chain.compensate("s-1"))[0]


async def test_an_effect_in_doubt_may_stand_and_does_not_stand(tmp_path: Path) -> None:
    """In the view, its steps, the plan and the chain."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        await chain.send("s-1")
        view = await chain.view("s-1")
        plan = await chain.get(f"{chain.stage}/sagas/s-1?view=plan")
        story = await chain.get(f"{chain.stage}/sagas/s-1?view=chain")
    own = next(part for part in story["stages"] if part["stage"] == "payment")
    for shown in (view, own):
        assert ([], ["charge"], "may_stand") == (
            shown["stands"],
            shown["may_stand"],
            shown["standing"],
        )
    assert "may_stand" == view["steps"][0]["standing"]
    assert ["may_stand"] == [step["standing"] for step in plan["steps"]]


async def test_an_effect_that_is_known_stands(chain: Chain) -> None:
    """A refund that fails for good: the answer and the view say so."""
    await chain.script(chain.shipping, script="refuse")
    await chain.script(chain.psp, script="refund-fails")
    status, _, body = await chain.send("s-1")
    problem, view = msgspec.json.decode(body), await chain.view("s-1")

    assert (500, ["charge"]) == (status, problem["stands"])
    assert "may_stand" not in problem
    assert (["charge"], [], "stands") == (view["stands"], view["may_stand"], view["standing"])


async def test_a_saga_whose_journal_was_dropped_is_unknown(tmp_path: Path) -> None:
    """Not "nothing stands": behind its window nobody here can say."""
    async with running_chain(tmp_path, compensation_window_seconds=0.0) as chain:
        await chain.send("s-1")

        async def dropped() -> bool:
            return not (await chain.view("s-1"))["steps"]

        await until(dropped)
        view = await chain.view("s-1")
        plan = await chain.get(f"{chain.stage}/sagas/s-1?view=plan")
    assert "unknown" == view["standing"] == plan["standing"]
