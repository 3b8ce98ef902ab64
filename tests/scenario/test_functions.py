"""The functions of calls as authors write them: several requests, other bytes, other clients."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from stage import Http, Refused, Saga, Stage
from stage.demo.payment import Order
from stage.neighbours.downstream.app import make_app
from tests.scenario.chain import Chain, running_chain


def stage_of() -> Stage[Order, Order]:
    return Stage("payment", accepts=Order)


async def refund(http: Http, saga: Saga[Order], charge: object) -> None:
    """Undo by key; used by the stages below."""
    key = saga.key.removesuffix(":undo") + ":do"
    await http.post("/refunds", json={"key": key, "charge_id": None})


async def test_a_repeat_sends_the_bytes_of_the_first_attempt(tmp_path: Path) -> None:
    """A function that computes another body every time changes nothing (rule 5, I3)."""
    stage = stage_of()
    amounts = itertools.count(100)

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": next(amounts)})
        return str(answer.json()["id"])

    charge.compensation(refund)
    async with running_chain(tmp_path, stage=stage) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        status, _, body = await chain.send("s-1")
        assert 200 == status, body  # another body under the same key would be answered 422
        assert (1, 1) == await chain.charges()
        assert next(amounts) > 101  # the function did run more than once


async def test_an_effect_before_a_lost_request_is_compensated(tmp_path: Path) -> None:
    """The charge was answered, the request after it could not be sent: the charge may stand."""
    stage = stage_of()

    @stage.call(to="psp", attempts_max=2, transient_on={404})
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        await http.get("/no-such-thing")
        return "never"

    charge.compensation(refund)
    async with running_chain(tmp_path, stage=stage) as chain:
        status, _, _ = await chain.send("s-1")
        assert 409 == status
        assert (1, 0) == await chain.charges()


async def test_each_request_of_a_function_has_a_key_of_its_own(tmp_path: Path) -> None:
    """Two charges in one step are two effects, each made once, each intent journaled."""
    stage = stage_of()

    @stage.call(to="psp", requests=2, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        answer = await http.post("/charges", json={"amount": 6})
        return str(answer.json()["id"])

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        keys = [entry["key"] for entry in (await chain.get(f"{chain.psp}/charges"))["charges"]]
        assert ["s-1:payment:charge:do", "s-1:payment:charge:do:2"] == keys
        assert "request_prepared" in await chain.events("s-1")


async def test_a_function_may_await_what_it_likes_before_its_request(tmp_path: Path) -> None:
    """It is begun anew in the event loop, and its intent is journaled before it leaves."""
    stage = stage_of()

    @stage.call(to="psp", compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await asyncio.sleep(0.001)
        answer = await http.post("/charges", json={"amount": 5})
        await asyncio.sleep(0.001)
        return str(answer.json()["id"])

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        assert (1, 1) == await chain.charges()
        assert "request_prepared" in await chain.events("s-1")


@pytest.mark.parametrize("error", [ValueError("odd"), KeyError("id")])
async def test_any_other_exception_leaves_the_step_in_doubt(
    tmp_path: Path, error: Exception
) -> None:
    """The charge landed, the function failed on its answer: in doubt, then compensated."""
    stage = stage_of()

    @stage.call(to="psp", attempts_max=2)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        raise error

    charge.compensation(refund)
    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert "step_in_doubt" in await chain.events("s-1")
        assert (1, 0) == await chain.charges()


async def test_calls_together_run_at_the_same_time_and_are_undone_together(tmp_path: Path) -> None:
    """One of the group is refused: the other is undone, downstream never hears of it."""
    stage = stage_of()
    both = asyncio.Barrier(2)

    @stage.call(to="psp", together="pair")
    async def north(http: Http, saga: Saga[Order]) -> str:
        await both.wait()  # only ever reached when both run
        answer = await http.post("/charges", json={"amount": 5})
        return str(answer.json()["id"])

    north.compensation(refund)

    @stage.call(to="psp", together="pair", compensation=None, reason="no test undoes it")
    async def south(http: Http, saga: Saga[Order]) -> str:
        await both.wait()
        raise Refused("sold out")

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (1, 0) == await chain.charges()
        assert await chain.shipped("s-1") is None


async def test_behind_the_pivot_compensate_gets_a_final_cannot(tmp_path: Path) -> None:
    """409 executed (rule 20)."""
    stage = stage_of()

    @stage.call(to="psp", pivot=True)
    async def pay(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": 5})
        return str(answer.json()["id"])

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        status, _, body = await chain.compensate("s-1")
        assert (409, "executed") == (status, msgspec.json.decode(body)["outcome"])
        assert (1, 1) == await chain.charges()
        shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
        (why_not,) = (e["why_not"] for e in shown["verbs"] if e["verb"] == "compensate")
        assert why_not.startswith("it is behind its pivot")
        view = await chain.view("s-1")
        assert ["pay"] == [step["name"] for step in view["steps"] if step.get("pivot")]


async def test_while_its_pivot_is_in_doubt_only_that_can_be_settled(tmp_path: Path) -> None:
    """The view offers no compensation, which would move nothing (rule 20)."""
    stage = stage_of()

    @stage.call(to="psp", timeout=0.1, pivot=True, idempotent=False)
    async def pay(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": 5})
        return str(answer.json()["id"])

    async with running_chain(tmp_path, stage=stage) as chain:
        await chain.script(chain.psp, script="hang")
        assert 202 == (await chain.send("s-1", Prefer="respond-async"))[0]
        await chain.until("s-1", lambda saga: saga["parked"])
        shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
        verbs = {each["verb"]: each for each in shown["verbs"]}
        assert ["pay"] == verbs["settle"]["steps"]
        assert verbs["compensate"]["why_not"].endswith("settle that first")


async def test_with_two_downstreams_all_must_succeed(tmp_path: Path) -> None:
    """One refuses: the other is compensated, then we are."""
    async with TestServer(make_app(name="billing", upstream="http://127.0.0.1:9")) as server:
        billing = str(server.make_url("")).rstrip("/")
        more = {"billing": billing}
        async with running_chain(tmp_path, stage=stage_of(), more_downstreams=more) as chain:
            await chain.script(billing, script="refuse")
            assert 409 == (await chain.send("s-1"))[0]
            shipped = await chain.shipped("s-1")
            assert shipped is not None
            assert ("compensated", 0) == (shipped["state"], shipped["standing"])


async def test_a_trail_that_ends_with_an_api_is_no_upstream(chain: Chain) -> None:
    """Only a configured upstream can be told; a failure after a 202 then waits for a person."""
    await chain.script(chain.shipping, script="refuse")
    assert 202 == (await chain.send("s-1", via="psp", Prefer="respond-async"))[0]
    view = await chain.until("s-1", lambda saga: saga["told_upstream"] == "refused")
    assert "no upstream 'psp' is configured" in view["parked_reason"]
    assert (1, 0) == await chain.charges()
    assert 200 == (await chain.compensate("s-1", by="shipping"))[0]
    assert (await chain.view("s-1"))["parked"], "another neighbour knows nothing of upstream"
    assert 200 == (await chain.compensate("s-1", by="psp"))[0]
    view = await chain.view("s-1")
    assert (False, "delivered") == (view["parked"], view["told_upstream"]), "it knows by itself"


async def test_a_failure_after_a_202_is_told_upstream(chain: Chain) -> None:
    """An upstream that was answered "still running" no longer waits for an answer (rule 22)."""
    await chain.script(chain.shipping, script="refuse")
    assert 202 == (await chain.send("s-1", via="order", Prefer="respond-async"))[0]
    await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")


async def test_a_refusal_of_the_first_step_is_not_executed(chain: Chain) -> None:
    """Nothing ever stood, so nothing was compensated."""
    status, _, body = await chain.send("s-1", {"order_id": "o", "amount": 0, "currency": "KRW"})
    assert (409, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
