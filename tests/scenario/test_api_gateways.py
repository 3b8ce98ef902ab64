"""A gateway in front of an external API says 401 or 429 for it, and the API has acted all the same.

Such a no is believed on the way forward alone: what leaves by it is undone (decision 0087).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stage import Http, Saga, Stage, Transient
from stage.demo.payment import Order
from tests.scenario.attacks.world import World, running_world

CHARGED = ["POST /do/charge"]


def stage_of(*, probed: bool = False, **rules: Any) -> Stage[Order, Order]:
    """One charge; its undo goes by the key, whether or not the charge became known."""
    stage: Stage[Order, Order] = Stage("payment", accepts=Order)

    @stage.call(to="psp", **rules)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/do/charge", json={"amount": saga.input.amount})
        if answer.json().get("code") == "busy":
            raise Transient("busy")
        return str(answer.json()["id"])

    if probed:

        @charge.probe
        async def find_charge(http: Http, saga: Saga[Order]) -> str | None:
            answer = await http.get("/look/charge")
            return str(answer.json()["id"]) if answer.status == 200 else None

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge_id: str | None) -> None:
        await http.post("/undo/charge", json={"id": charge_id})

    return stage


def says(status: int, **body: Any) -> Any:
    """The API has acted by then; this is what is heard of it."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    return answer


def times(count: int, world: World, status: int) -> Any:
    """The same, so many times; then the API itself is heard."""
    left = [count]
    later = says(status)

    async def answer(request: web.Request) -> web.Response:
        left[0] -= 1
        if left[0] <= 0:
            del world.behaves["do/charge"]
        found: web.Response = await later(request)
        return found

    return answer


@pytest.mark.parametrize(
    "code, body", [(401, {}), (429, {}), (409, {"code": "busy"})], ids=["401", "429", "busy"]
)
@pytest.mark.parametrize("probed", [False, True])
async def test_a_charge_of_which_a_gateway_said_no_for_now_is_undone(
    tmp_path: Path, code: int, body: dict[str, str], probed: bool
) -> None:
    """It stood although upstream was told that nothing had been executed."""
    async with running_world(tmp_path, stage_of(probed=probed)) as (chain, world):
        world.behaves["do/charge"] = says(code, **body)
        status, _, _ = await chain.send("s-1", Saga_Budget_Ms="600")
        assert 409 == status
        assert 0 == world.count("charge")
        assert "POST /undo/charge" in world.seen
        assert ("GET /look/charge" in world.seen) == probed


async def test_the_undo_knows_the_charge_that_the_probe_finds(tmp_path: Path) -> None:
    """An API that refunds by the id of the charge needs it."""
    undone: list[Any] = []
    async with running_world(tmp_path, stage_of(probed=True)) as (chain, world):

        async def undo(request: web.Request) -> web.Response:
            undone.append(await request.json())
            return web.json_response({})

        world.behaves["do/charge"] = says(429)
        world.behaves["undo/charge"] = undo
        assert 409 == (await chain.send("s-1", Saga_Budget_Ms="600"))[0]
        assert [{"id": "charge-1"}] == undone


@pytest.mark.parametrize("code", [401, 429])
async def test_an_api_that_ignores_keys_is_looked_at_before_it_is_asked_again(
    tmp_path: Path, code: int
) -> None:
    """It would charge twice."""
    stage = stage_of(probed=True, idempotent=False)
    async with running_world(tmp_path, stage) as (chain, world):
        world.behaves["do/charge"] = times(1, world, code)
        assert 200 == (await chain.send("s-1"))[0]
        assert CHARGED == [line for line in world.seen if "/do/" in line]


async def test_without_a_probe_such_a_charge_waits_for_a_person(tmp_path: Path) -> None:
    """A person settles it, as any doubt."""
    stage = stage_of(idempotent=False)
    async with running_world(tmp_path, stage, wait_seconds_max=0.5) as (chain, world):
        world.behaves["do/charge"] = times(1, world, 429)
        assert 202 == (await chain.send("s-1"))[0]
        view = await chain.until("s-1", lambda saga: bool(saga["parked"]))
        assert "charge is in doubt" in view["parked_reason"]
        assert CHARGED == world.seen


async def test_a_code_that_the_author_declares_is_certain(tmp_path: Path) -> None:
    """`transient_on` vouches for it, also where the API ignores keys."""
    stage = stage_of(idempotent=False, transient_on={429})
    async with running_world(tmp_path, stage) as (chain, world):
        world.behaves["do/charge"] = times(1, world, 429)
        assert 200 == (await chain.send("s-1"))[0]
        assert CHARGED * 2 == world.seen


async def test_a_declared_code_leaves_nothing_to_undo(tmp_path: Path) -> None:
    """The saga turns back at its deadline, and the API is not asked again."""
    async with running_world(tmp_path, stage_of(transient_on={429})) as (chain, world):
        world.behaves["do/charge"] = says(429)
        assert 409 == (await chain.send("s-1", Saga_Budget_Ms="600"))[0]
        assert {*CHARGED} == {*world.seen}


async def test_a_look_that_a_cache_answers_is_none(tmp_path: Path) -> None:
    """Its 404 is of before the charge; an API that ignores keys would charge once more."""
    async with running_world(tmp_path, stage_of(probed=True, idempotent=False)) as (chain, world):
        kept, asked = [{"Age": "7"}, {"Age": "9"}], []

        async def look(request: web.Request) -> web.Response:
            asked.append(request.headers.get("Cache-Control"))
            if kept:
                return web.json_response({}, status=404, headers=kept.pop(0))
            return web.json_response({"id": "charge-1"})

        world.behaves["do/charge"] = says(504)
        world.behaves["look/charge"] = look
        assert 200 == (await chain.send("s-1"))[0]
        assert ["no-cache"] * 3 == asked
        assert CHARGED == [line for line in world.seen if "/do/" in line]


async def test_a_no_of_the_call_is_none_of_its_look(tmp_path: Path) -> None:
    """`refused_on={404}`: no such customer. At the look it is a charge that does not show yet."""
    async with running_world(tmp_path, stage_of(probed=True, refused_on={404})) as (chain, world):
        shows = [404]

        async def look(request: web.Request) -> web.Response:
            return web.json_response({"id": "charge-1"}, status=shows.pop() if shows else 200)

        world.behaves["do/charge"] = says(504)
        world.behaves["look/charge"] = look
        assert 200 == (await chain.send("s-1"))[0]
        assert 1 == world.count("charge")
