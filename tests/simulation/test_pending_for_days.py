"""A payment that is pending for three days, over five restarts and two replicas.

The virtual clock runs through the days; the API says by a webhook, twice, how the call ended.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest

from stage import Declined, Http, Landed, Saga, Stage, Tx, Webhook
from stage.core.events import Recovered
from stage.ports.stage import Answer
from stage.simulation import ApiModel, ApiRequest, Effect, json_answer, loop
from stage.simulation.api import signed
from stage.simulation.faults import Faults
from stage.simulation.loop import DAY_SECONDS
from stage.simulation.neighbours import CLIENT, Verdict
from stage.simulation.stages import Purchase
from stage.simulation.world import Scenario, World, simulate_world

pytestmark = pytest.mark.blocking

RESTARTS = 5
LOOKS = 6
"""How often it is looked between two restarts whether anything is held."""
LOOK_SECONDS = 500.0
"""The pause of all that only looks, so that the days cost little."""
KEY = "s-1:payment:charge:do"


class SlowPsp(ApiModel):
    """It takes a charge on, and says what became of it when it is asked."""

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        return json_answer(202, {"state": "pending"})

    def say(self, end: str) -> None:
        """Twice, as APIs do."""
        if end == "declined":
            self.books.unmake(self.books.effect(KEY, self.name))
        body = msgspec.json.encode({"key": KEY, "end": end})
        for after in (0.0, 1.0):
            self.send_webhook(KEY, body, signed(body), after=after)


def stage_of() -> Stage[Purchase, Any]:
    """Reserve, and charge a card whose owner takes days to confirm."""
    stage: Stage[Purchase, Any] = Stage("payment", accepts=Purchase)

    @stage.transaction
    async def reserve(tx: Tx, saga: Saga[Purchase]) -> None:
        pass

    @reserve.compensation
    async def release(tx: Tx, saga: Saga[Purchase]) -> None:
        pass

    @stage.call(to="psp", pending_on={202}, pending_seconds_max=4.0 * DAY_SECONDS)
    async def charge(http: Http, saga: Saga[Purchase]) -> str:
        return str((await http.post("/charges", json={})).json()["id"])

    @charge.webhook
    def ended(hook: Webhook) -> Landed[str] | Declined:
        hook.verify_hmac(hook.header("Api-Signature"))
        said = hook.json()
        if said["end"] == "declined":
            return Declined(reason="not confirmed", key=said["key"])
        return Landed(result="ch-1", key=said["key"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Purchase], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge)})

    return stage


class ThreeDays:
    """Drives one world: one saga, its restarts, and the end."""

    def __init__(self, end: str) -> None:
        self._end = end
        self.held: list[int] = []
        self.world: World | None = None

    async def __call__(self, world: World) -> None:
        self.world = world
        client, node = world.client, world.nodes[0]
        assert 2 == node.processes
        order = client.begin("s-1", {"amount": 100})
        answer = await client.post(order, order.body, wait=False)
        assert isinstance(answer, Answer) and 202 == answer.status
        order.accepted = True
        await asyncio.sleep(5.0)
        world.loop.still = True
        for _ in range(RESTARTS):
            for _ in range(LOOKS):
                await asyncio.sleep(3.0 * DAY_SECONDS / RESTARTS / LOOKS)
                self.held.append(node.runs)
            newest = node.newest
            assert newest is not None
            node.crash(newest)
        world.loop.still = False
        await asyncio.sleep(10.0)
        psp = world.apis[0]
        assert isinstance(psp, SlowPsp)
        psp.say(self._end)
        while order.verdict is Verdict.OPEN:
            await asyncio.sleep(5.0)
            again = await client.post(order, order.body, wait=True)
            if isinstance(again, Answer) and again.status == 200:
                order.verdict = Verdict.EXECUTED
        await asyncio.sleep(60.0)
        order.done = True


def two_replicas(random: Random) -> Faults:
    """Nothing goes wrong but what the test does."""
    return Faults(rates={"replicas": 1.0}, random=random)


@pytest.mark.parametrize("end, made, notified", [("landed", 1, 0), ("declined", 0, 1)])
def test_three_days_five_restarts_two_replicas(
    end: str, made: int, notified: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One effect, nothing held meanwhile; upstream is notified once of a no, and never of a yes."""
    monkeypatch.setattr(loop, "STILL_SECONDS", LOOK_SECONDS)
    days = ThreeDays(end)
    scenario = Scenario(
        stage=stage_of(), models={"psp": SlowPsp}, tail=False, faults=two_replicas, drive=days
    )

    result = simulate_world(1, scenario)

    assert [] == result.violations
    assert result.seconds > 3.0 * DAY_SECONDS
    assert RESTARTS * LOOKS * [0] == days.held
    lines = result.transcript.lines
    assert notified == sum(line.who == CLIENT and "is asked to" in str(line.what) for line in lines)
    assert 1 == sum("EFFECT made" in str(line.what) for line in lines)
    assert 1 == sum("WebhookFound" in repr(line.what) for line in lines) + notified
    assert RESTARTS <= sum("CRASHES" in str(line.what) for line in lines)
    assert any(isinstance(line.what, Recovered) for line in lines)
    assert days.world is not None
    (effect,) = [one for one in days.world.books.effects.values() if one.made]
    assert made == effect.standing
    assert {"completed" if made else "compensated": 1} == dict(result.states)
