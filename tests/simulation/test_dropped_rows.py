"""A saga whose row was dropped is asked for again: the world's books hold its stage to its word.

Its effects stand, and its neighbour has a yes. Two replicas and a restart come in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest

from stage.core.unseen import first_id_at
from stage.engine.saga.dropped import DroppedRows
from stage.ports.stage import Answer
from stage.ports.store import Unit
from stage.simulation.faults import Faults
from stage.simulation.loop import DAY_SECONDS, EPOCH
from stage.simulation.neighbours import CLIENT, Verdict
from stage.simulation.network import Message
from stage.simulation.world import Result, Scenario, World, simulate_world
from stage.store import rows
from tests.simulation.mutants import Patches

pytestmark = pytest.mark.blocking

SAGA = f"{first_id_at(EPOCH - 10 * DAY_SECONDS)}000-8000-000000000001"
LONG_ENOUGH = 60.0


async def _drop(unit: Unit) -> bool:
    far = EPOCH + 99 * DAY_SECONDS
    await unit.close_ended(far, far, 9)
    return await unit.drop_row(SAGA)


class LateRepeat:
    """Drives one world: executed, dropped, sent again, and asked to compensate."""

    def __init__(self) -> None:
        self.said: list[int] = []

    async def __call__(self, world: World) -> None:
        client, node = world.client, world.nodes[0]
        order = client.begin(SAGA, {"amount": 100})
        answer = await client.post(order, order.body, wait=True)
        assert isinstance(answer, Answer) and 200 == answer.status
        order.accepted, order.verdict = True, Verdict.EXECUTED
        await asyncio.sleep(LONG_ENOUGH)  # it leaves memory
        assert await node.disk.store.transact(_drop)
        world.books.dropped[node.name, SAGA] = world.loop.time()
        await self._asked(world, order)
        for process in list(node._live):
            node.crash(process)
        await asyncio.sleep(LONG_ENOUGH)
        await self._asked(world, order)
        order.done = True

    async def _asked(self, world: World, order: Any) -> None:
        for _ in range(world.nodes[0].processes + 2):
            answers = [await world.client.post(order, order.body, wait=True)]
            body = msgspec.json.encode({"requested_by": CLIENT, "reason": "late"})
            path, first = f"/sagas/{SAGA}/compensate", world.nodes[0].name
            asked = Message(source=CLIENT, target=first, path=path, body=body, saga=SAGA)
            answers.append(await world.network.carry(asked, 30.0))
            self.said += [each.status for each in answers if isinstance(each, Answer)]


def run(replicas: float) -> tuple[Result, LateRepeat]:
    """The world, with one process or two."""

    def nothing_else(random: Random) -> Faults:
        return Faults(rates={"replicas": replicas} if replicas else {}, random=random)

    drive = LateRepeat()
    scenario = Scenario(chain=("plain",), tail=False, faults=nothing_else, drive=drive)
    return simulate_world(2, scenario), drive


@pytest.mark.parametrize("replicas", [0.0, 1.0])
def test_a_late_repeat_is_neither_run_nor_called_undone(replicas: float) -> None:
    """By neither replica, and not by the next process either."""
    result, drive = run(replicas)
    assert [] == result.violations
    assert {410, 409} == set(drive.said)


def _nobody_looks(patches: Patches) -> None:
    """A saga that is not there was never seen."""

    async def look(self: Any, unit: Any, saga_id: str) -> None:
        pass

    patches.set(DroppedRows, "refuse_in", look)


def _no_mark_is_left(patches: Patches) -> None:
    """The row goes, and the unit that drops it says so nowhere."""
    patches.set(rows, "dropped_until", lambda found: (0.0, 0.0))


@pytest.mark.parametrize("plant", [_nobody_looks, _no_mark_is_left])
def test_a_planted_defect_is_found(plant: Callable[[Patches], None]) -> None:
    """The saga runs twice, or is buried while it stands."""
    patches = Patches()
    try:
        plant(patches)
        result, _ = run(1.0)
    finally:
        patches.undo()
    assert {"I2", "I9", "I7"} & {violation.invariant for violation in result.violations}
