"""A request that was tried can be mended (rule 31): by a deploy, and by `retry --anew`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stage import Http, Refused, Saga, Stage
from stage.cli.root import run
from stage.demo.payment import Order
from tests.scenario.attacks.world import World, running_world
from tests.scenario.chain import Chain
from tests.scenario.test_operator import audit, do

WRONG, RIGHT = "/wrong/charge", "/undo/charge"


class Deployed:
    """The code of the stage: a test deploys another path while sagas are under way."""

    def __init__(self) -> None:
        self.charge_to = "/do/charge"
        self.refund_to = WRONG
        self.refuses = False

    def stage(self) -> Stage[Order, Order]:
        """One charge, and a refund that fails on any answer but 200."""
        stage: Stage[Order, Order] = Stage("payment", accepts=Order)

        @stage.call(to="psp", attempts_max=3, compensation_attempts_max=2, transient_on={429})
        async def charge(http: Http, saga: Saga[Order]) -> str:
            answer = await http.post(self.charge_to, json={"amount": saga.input.amount})
            return str(answer.json()["id"])

        @charge.compensation
        async def refund(http: Http, saga: Saga[Order], charge_id: str | None) -> None:
            answer = await http.post(self.refund_to, json={"id": charge_id})
            if answer.status != 200:
                error = Refused if self.refuses else RuntimeError
                raise error(f"answered {answer.status}")

        return stage


class Errors:
    """An API that keeps the answer of a key, errors too, and never does what failed once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kept: dict[str, int] = {}
        self.failing = True
        self.keys: list[str] = []

    async def compensate(self, request: web.Request) -> web.StreamResponse:
        key = request.headers["Idempotency-Key"]
        self.keys.append(key)
        status = self._kept.setdefault(key, 500 if self.failing else 200)
        if status == 200:
            self._world.standing["charge"].clear()
        return web.json_response({}, status=status)


async def not_found(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": "no such path"}, status=404)


async def failed_to_compensate(chain: Chain, world: World) -> None:
    """A saga whose refund went to a wrong path until it was given up."""
    world.behaves["wrong/charge"] = not_found
    assert 200 == (await chain.send("s-1"))[0]
    assert 409 == (await chain.compensate("s-1"))[0]
    await chain.until("s-1", lambda saga: saga["state"] == "failed_to_compensate")


def refunds(world: World) -> list[str]:
    return [line.removeprefix("POST ") for line in world.seen if "/do/" not in line]


async def test_a_refund_to_a_wrong_path_goes_to_the_right_one_when_it_is_ordered_anew(
    tmp_path: Path,
) -> None:
    """404 and given up; fixed and deployed: the retry sends nothing to the old path, nor another
    request in its place; `--anew` sends that of today's code, once, under the same key.
    """
    code = Deployed()
    async with running_world(tmp_path, code.stage()) as (chain, world):
        await failed_to_compensate(chain, world)
        assert [WRONG, WRONG] == refunds(world)
        code.refund_to = RIGHT
        assert 200 == (await do(chain, "s-1", "retry"))[0]
        view = await chain.until("s-1", lambda saga: bool(saga["parked"]))
        assert [WRONG, WRONG] == refunds(world)
        (step,) = (step for step in view["steps"] if step["name"] == "charge")
        assert f"not sent: POST {WRONG} may have had an effect" in step["last_error"]
        assert "retry it with --anew" in step["last_error"]
        before = await chain.events("s-1")
        status, would = await do(chain, "s-1", "retry", anew=True, dry_run=True)
        assert (200, "compensating") == (status, would["state"])
        assert before == await chain.events("s-1")
        assert 200 == (await do(chain, "s-1", "retry", anew=True))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert [WRONG, WRONG, RIGHT] == refunds(world)
        assert 0 == world.count("charge")
        entries = (await chain.get(f"{chain.stage}/sagas/s-1?view=journal"))["entries"]
        began = [each for each in entries if each["event"] == "compensation_started"]
        keys = {each["key"] for each in began if each["step"] == "charge"}
        assert {"s-1:payment:charge:undo"} == keys
        assert [("retried", "kim", "ticket 17")] * 2 == await audit(chain, "s-1")
        assert [False, True] == [e.get("anew", False) for e in entries if e["event"] == "retried"]


async def test_an_api_that_keeps_errors_by_key_heals_with_a_new_key(tmp_path: Path) -> None:
    """Under the old key it answers 500 for ever; the order of a new one is in the journal."""
    code = Deployed()
    code.refund_to = RIGHT
    async with running_world(tmp_path, code.stage()) as (chain, world):
        api = Errors(world)
        world.behaves["undo/charge"] = api.compensate
        world.behaves["do/charge"] = lambda request: kept(world)
        assert 200 == (await chain.send("s-1"))[0]
        assert 409 == (await chain.compensate("s-1"))[0]
        api.failing = False
        for order in ({}, {"anew": True}):
            assert 200 == (await do(chain, "s-1", "retry", **order))[0]
            await chain.until("s-1", lambda saga: saga["state"] == "failed_to_compensate")
        assert 1 == world.count("charge")
        assert {"s-1:payment:charge:undo"} == set(api.keys)
        assert 200 == (await do(chain, "s-1", "retry", anew=True, new_key=True))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert 0 == world.count("charge")
        assert "s-1:payment:charge:undo.2" == api.keys[-1]
        entries = (await chain.get(f"{chain.stage}/sagas/s-1?view=journal"))["entries"]
        assert entries[-3]["key"] == api.keys[-1]


async def kept(world: World) -> web.StreamResponse:
    """The charge stands under one name, whatever key takes it back."""
    world.standing["charge"] = {"it"}
    return web.json_response({"id": "c-1"})


async def test_a_refund_that_was_refused_for_certain_is_made_by_todays_code(
    tmp_path: Path,
) -> None:
    """The author's word that nothing happened is enough: a plain retry goes to the new path."""
    code = Deployed()
    code.refuses = True
    async with running_world(tmp_path, code.stage()) as (chain, world):
        await failed_to_compensate(chain, world)
        code.refund_to = RIGHT
        assert 200 == (await do(chain, "s-1", "retry"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert [WRONG, RIGHT] == refunds(world)
        assert 0 == world.count("charge")


async def test_a_charge_that_certainly_did_not_happen_is_made_by_todays_code(
    tmp_path: Path,
) -> None:
    """429 by declaration, then a deploy with another path: the next attempt goes there."""
    code = Deployed()
    code.charge_to = WRONG

    async def not_now(request: web.Request) -> web.StreamResponse:
        code.charge_to = "/do/charge"
        return web.json_response({}, status=429)

    async with running_world(tmp_path, code.stage()) as (chain, world):
        world.behaves["wrong/charge"] = not_now
        assert 200 == (await chain.send("s-1"))[0]
        assert [f"POST {WRONG}", "POST /do/charge"] == world.seen


async def test_a_charge_in_doubt_that_todays_code_would_send_elsewhere_is_parked(
    tmp_path: Path,
) -> None:
    """Nothing is sent: the first may have landed. Code that fits again goes on with the bytes."""
    code = Deployed()

    async def lost(request: web.Request) -> web.StreamResponse:
        code.charge_to = "/do/other"
        return web.json_response({}, status=500)

    async with running_world(tmp_path, code.stage(), wait_seconds_max=0.5) as (chain, world):
        world.behaves["do/charge"] = lost
        assert 202 == (await chain.send("s-1"))[0]
        view = await chain.until("s-1", lambda saga: bool(saga["parked"]))
        assert "today's code would send POST /do/other in its place" in view["parked_reason"]
        assert ["POST /do/charge"] == world.seen
        status, answer = await do(chain, "s-1", "retry", anew=True)
        assert 409 == status and "only that can be made anew" in answer["detail"]
        del world.behaves["do/charge"]
        code.charge_to = "/do/charge"
        assert 200 == (await do(chain, "s-1", "retry"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert ["POST /do/charge"] * 2 == world.seen and 1 == world.count("charge")


@pytest.mark.parametrize(
    "order, code, detail",
    [
        ({"new_key": True}, 422, "belong to a retry that makes an undo's request anew"),
        ({"step": "charge"}, 422, "belong to a retry that makes an undo's request anew"),
        ({"anew": True, "step": "charge"}, 200, ""),
        ({"anew": True, "step": "forward:shipping"}, 409, "neither waits nor failed"),
    ],
)
async def test_an_order_that_says_too_little_is_refused_with_the_fix(
    tmp_path: Path, order: dict[str, Any], code: int, detail: str
) -> None:
    """A new key alone would send the undo of another step twice."""
    async with running_world(tmp_path, Deployed().stage()) as (chain, world):
        await failed_to_compensate(chain, world)
        status, answer = await do(chain, "s-1", "retry", **order, dry_run=True)
        assert code == status
        assert detail in answer.get("detail", "")


def test_the_command_says_what_belongs_to_anew(capsys: pytest.CaptureFixture[str]) -> None:
    """Before it asks anybody."""
    assert 2 == run(["retry", "s-1", "--new-key", "--reason", "x"])
    assert "--new-key and --step belong to --anew" in capsys.readouterr().err
