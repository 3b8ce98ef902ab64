"""F22: a deploy at every message of a saga, between every two versions of a family, and back.

Each saga is finished right or parked with a true picture, by the books of the world. The planted
defects say that these books can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from stage.core import bindings
from stage.core.commands import Do
from stage.core.ids import Direction, compensation_key, idempotency_key
from stage.core.saga import Saga
from stage.engine.saga.instructions import Instruction
from stage.engine.saga.interpreter import Interpreter, Transition
from stage.engine.saga.versions import Versions
from stage.store.memory_database import MemoryDatabase
from tests.kits import Strikes
from tests.simulation.releases import FAMILY, deploy
from tests.sizes import SIZES

pytestmark = pytest.mark.blocking  # the virtual loop never waits for anything real

PAIRS = [(first, then) for first in FAMILY for then in FAMILY]
MESSAGES_MAX = 40
"""More than any release sends for one saga."""


def cuts(first: str, then: str) -> Iterator[tuple[str, list[str]]]:
    """Every message at which the first release may die, and what was wrong after it."""
    for landed in (True, False):
        for cut in range(1, MESSAGES_MAX):
            world, wrong, _ = deploy(first, then, cut, landed=landed)
            if not world.struck:
                break
            where = f"{world.struck} ({cut}, {'landed' if landed else 'lost'})"
            yield where, [f"{first} -> {then} at {where}: {each}" for each in wrong]
        else:
            raise AssertionError(f"{first} does not come to an end")


def test_there_are_twelve_versions() -> None:
    """As many as F22 asks for."""
    assert 12 == len(FAMILY)


@pytest.mark.kit("F22")
@pytest.mark.parametrize("first, then", PAIRS[:: SIZES.deploy_stride])
def test_a_deploy_at_every_message_leaves_it_right_or_parked(
    first: str, then: str, strikes: Strikes
) -> None:
    """Forward, and back again; the process dies before or after the effect of each message."""
    struck, wrong = 0, list[str]()
    for _, found in cuts(first, then):
        struck += 1
        wrong += found

    strikes.report("deploys", struck, violations=len(wrong))
    assert [] == wrong
    assert struck >= 4  # a charge and a hand-over at least, both ways


Plant = Callable[[pytest.MonkeyPatch], None]


def a_changed_peer_undoes_an_old_saga(patch: pytest.MonkeyPatch) -> None:
    """The refund goes to an API that never charged."""
    _difference_of(patch, lambda bound, step: replace(bound, peer=step.peer))


def a_lost_compensation_is_nothing_to_undo(patch: pytest.MonkeyPatch) -> None:
    """A release without it says compensated."""
    _difference_of(patch, lambda bound, step: replace(bound, compensatable=False))


def a_newer_saga_is_taken_up(patch: pytest.MonkeyPatch) -> None:
    """A release that does not know the version runs the saga as its own."""
    patch.setattr(Versions, "begin", lambda self, saga_id, entries: Saga(id=saga_id))

    async def due(self: MemoryDatabase, before: float, limit: int, version: int) -> list[str]:
        return self.needing_a_run(lambda _, at: at <= before, limit)

    patch.setattr(MemoryDatabase, "due", due)


def the_key_is_made_from_todays_name(patch: pytest.MonkeyPatch) -> None:
    """A repeat after a rename is another charge."""

    def key(self: Interpreter, done: Transition, what: Any) -> str:
        do = what.do
        made = idempotency_key(done.saga.id, done.plan.stage, do.step, Direction.EXECUTE)
        return compensation_key(made) if do.kind == "compensate" else made

    patch.setattr(Interpreter, "_key", key)


def an_old_saga_runs_as_todays_stage(patch: pytest.MonkeyPatch) -> None:
    """Its attempts are compiled for the newest version alone."""

    def instruction(self: Interpreter, saga: Saga, do: Do) -> Instruction:
        return self.newest[do.kind][do.step].numbered(do)

    patch.setattr(Interpreter, "instruction", instruction)


def _difference_of(patch: pytest.MonkeyPatch, change: Callable[[Any, Any], Any]) -> None:
    """Let the comparison see another binding than the journal has."""
    original = bindings._difference

    def blind(plan: Any, saga_id: str, name: str, bound: Any) -> str:
        step = plan.by_name.get(name)
        if step is not None and bound.binding is not None:
            bound = replace(bound, binding=change(bound.binding, step))
        return original(plan, saga_id, name, bound)

    patch.setattr(bindings, "_difference", blind)


PLANTED: dict[Plant, tuple[str, str]] = {
    a_changed_peer_undoes_an_old_saga: ("base", "other api"),
    a_lost_compensation_is_nothing_to_undo: ("base", "compensation lost"),
    a_newer_saga_is_taken_up: ("version 2", "compensation lost"),
    an_old_saga_runs_as_todays_stage: ("base", "version 2 after 1"),
    the_key_is_made_from_todays_name: ("base", "step renamed, and said"),
}


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_of_deploys_is_found(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The books of the world tell it at some message of that pair."""
    plant(monkeypatch)

    assert any(wrong for _, wrong in cuts(*PLANTED[plant]))
