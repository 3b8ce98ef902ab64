"""Worlds in which a call consists of two requests, each with an effect of its own.

Faults strike between the two: the process dies, an answer is lost, the second one is refused.
"""

from __future__ import annotations

from collections import Counter

import pytest

from stage import Http, Refused, Saga, Stage, Transient
from stage.core import events as e
from stage.simulation.stages import Purchase
from stage.simulation.world import Result, Scenario, simulate_world
from tests.simulation.script import STRIKES, play

pytestmark = pytest.mark.blocking

SEEDS = range(12)


def world(seed: int) -> Result:
    """A stage alone or behind another one, with undos that take their time in every third."""
    always = {"undo_accepted"} if seed % 3 == 0 else {"api_refuses"}
    return simulate_world(
        seed,
        Scenario(
            sagas=8,
            chain=("paired",) if seed % 2 else ("plain", "paired"),
            tail=False,
            without=frozenset({"outage"}),
            always=frozenset(always),
        ),
    )


def test_worlds_with_calls_of_two_requests_hold_every_invariant() -> None:
    """And in them the second request is refused, lost, repeated and found behind the first."""
    states: Counter[str] = Counter()
    seen: Counter[tuple[type, str]] = Counter()
    halves = 0
    for seed in SEEDS:
        result = world(seed)
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
        for line in result.transcript.lines:
            seen[type(line.what), getattr(line.what, "step", "")] += 1
            halves += isinstance(line.what, e.StepRefused) and line.what.may_stand
    assert halves
    for kind in (e.RequestPrepared, e.StepInDoubt, e.ProbeFound, e.ProbeNotThere):
        assert seen[kind, "book"], kind
    assert states["completed"] and states["compensated"]


@pytest.mark.parametrize("whims", [frozenset(), frozenset({"late_compensation"})])
def test_one_fault_at_each_point_of_a_call_of_two_requests(whims: frozenset[str]) -> None:
    """Each strike at each durable write and message: between the two requests, and the two undos.

    Such a saga makes two effects, or none stands in the end.
    """
    calm = play({}, whims, chain=("paired",), tail=False)
    points = [point for point in calm.script.points if point.sort != "request"]
    assert any("book/take" in point.where for point in points)
    assert bool(whims) is any("book/undo" in point.where for point in points)
    for point in points:
        for strike in STRIKES[point.sort]:
            played = play({point.number: strike}, whims, chain=("paired",), tail=False)
            assert [] == played.result.violations, (point, strike)
            assert {point.number: strike} == played.script.hit, (point, strike)


def of_an_author() -> Stage[Purchase, str]:
    """A call that looks, asks for an order and then for its delivery."""
    stage: Stage[Purchase, str] = Stage("payment", accepts=Purchase)

    @stage.call(to="shop", timeout=1.0, requests=3)
    async def order(http: Http, saga: Saga[Purchase]) -> str:
        await http.get("/stock")
        for path in ("/orders", "/deliveries"):
            answer = await http.post(path, json={"amount": saga.input.amount})
            if answer.status in (402, 410) and answer.json()["code"] in ("refused", "closed_key"):
                raise Refused("sold out")
        return str(answer.json()["id"])

    @order.compensation
    async def cancel(http: Http, saga: Saga[Purchase], _made: str | None) -> None:
        answer = await http.post("/cancellations", json={"of": saga.key_of(order)})
        if answer.status == 402:
            raise Refused("it is under way")
        if answer.status != 200 or "undone" not in answer.json():
            raise Transient(f"answered {answer.status}")

    return stage


def test_a_call_of_an_author_may_make_an_effect_with_each_request() -> None:
    """`stage simulate` took two effects of one call for one that was doubled."""
    states: Counter[str] = Counter()
    for seed in range(6):
        result = simulate_world(seed, Scenario(sagas=6, stage=of_an_author(), tail=False))
        assert [] == result.violations, f"seed {seed}"
        states.update(result.states)
    assert states["completed"] and states["compensated"]
