"""An API declines a charge, makes it minutes later, and tells: the saga is closed by then (0101).

The world's books know that the charge stands. A person undoes it, and forgets the saga.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from stage.engine.saga import opening
from stage.inbound import webhooks
from stage.ports.stage import Answer
from stage.simulation import ApiRequest, json_answer
from stage.simulation.faults import Faults
from stage.simulation.neighbours import Verdict
from stage.simulation.world import Result, Scenario, World, simulate_world
from tests.simulation import hooked_payment
from tests.simulation.mutants import Patches

pytestmark = pytest.mark.blocking

SAGA = "s-1"
LATE_SECONDS = 400.0
"""Much later than the longest window of a world with retention."""


SAID_BEFORE = {"I10"}
"""The stage answered `not_executed` when its API had said no. Nothing takes that back."""


class LatePsp(hooked_payment.Psp):
    """Its no was a gateway's, as it were, and it acts on a copy of the request."""

    def answer(self, request: ApiRequest) -> Answer:
        if request.path == "/refunds":
            return super().answer(request)
        if request.key not in self.books.effects:
            self.books.effect(request.key, self.name)
            asyncio.get_running_loop().call_later(LATE_SECONDS, self._land, request.key)
        return json_answer(402, {"code": "refused"})

    def _land(self, key: str) -> None:
        effect = self.books.effect(key, self.name)
        self.books.make(effect)
        self._hook(key, "succeeded", 0.0, effect.name)


async def drive(world: World) -> None:
    """One saga that is refused, and time for the rest."""
    order = world.client.begin(SAGA, {"amount": 100})
    answer = await world.client.post(order, order.body, wait=True)
    assert isinstance(answer, Answer) and 409 == answer.status
    order.accepted, order.verdict, order.done = True, Verdict.FAILED, True
    await asyncio.sleep(2 * LATE_SECONDS)


def run(replicas: float, *, person: bool = True) -> tuple[Result, World]:
    """The world, with one process or two; without a person the saga stays as it waits."""

    def retention(random: Random) -> Faults:
        rates = {"retention": 1.0, "replicas": replicas, "operator": 1e-6 if person else 0.0}
        return Faults(rates={kind: rate for kind, rate in rates.items() if rate}, random=random)

    worlds: list[World] = []

    async def driven(world: World) -> None:
        worlds.append(world)
        await drive(world)

    models = {"psp": LatePsp}
    scenario = Scenario(
        stage=hooked_payment.payment, models=models, faults=retention, drive=driven, tail=False
    )
    return simulate_world(2, scenario), worlds[0]


def found_in(result: Result) -> set[str]:
    """The invariants that a world has broken."""
    return {violation.invariant for violation in result.violations}


@pytest.mark.parametrize("replicas", [0.0, 1.0])
def test_a_charge_that_lands_when_its_saga_is_closed_is_reported(replicas: float) -> None:
    """Parked with the charge among what could not be undone, however often it is told."""
    result, world = run(replicas, person=False)
    assert set() == found_in(result) - SAID_BEFORE
    (known,) = world.books.known.values()
    assert ("failed_to_compensate", "landed_late") == (known.row.state, known.row.parked_cause)
    assert known.row.closed_at is not None
    assert 1 == sum(effect.standing for effect in world.books.effects.values())


@pytest.mark.parametrize("replicas", [0.0, 1.0])
def test_a_person_undoes_it_and_forgets_the_saga(replicas: float) -> None:
    """Then nothing stands, and nothing waits."""
    result, world = run(replicas)
    assert set() == found_in(result) - SAID_BEFORE
    (known,) = world.books.known.values()
    assert known.forgotten and not known.row.parked
    assert 0 == sum(effect.standing for effect in world.books.effects.values())


# --- planted defects -----------------------------------------------------------------------------


def taken_for_a_late_copy(patches: Patches) -> None:
    """The engine believes its books, and does nothing."""
    patches.set(opening, "lands_behind_close", lambda plan, saga, event: False)


def taken_for_that_of_another(patches: Patches) -> None:
    """The endpoint finds no step in what is left of the saga."""
    patches.set(webhooks, "_is_key_of_closed", lambda service, snapshot, heard: False)


@pytest.mark.parametrize("plant", [taken_for_a_late_copy, taken_for_that_of_another])
def test_a_planted_defect_is_found(plant: Callable[[Patches], Any]) -> None:
    """The saga is called compensated, and the charge stands."""
    patches = Patches()
    try:
        plant(patches)
        result, _ = run(0.0)
    finally:
        patches.undo()
    assert "I7" in found_in(result)
