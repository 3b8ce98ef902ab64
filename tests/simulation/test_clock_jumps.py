"""F24: the clock of each stage jumps at each message, forward and back; and no two clocks agree.

Nothing irreversible follows from it, and nothing waits for longer than it would have (rule 34). The
saga ends as without the jump, is undone as ever when somebody asks for that afterwards, and every
stage knows the same of it: that is looked at in the books of the world. A process that starts under
a wrong clock has no other one, so that a saga whose deadline is over by it may turn back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from itertools import product
from typing import Any, NamedTuple

import pytest

from stage.core.states import SagaState
from stage.engine.clock import SteadyClock
from stage.engine.embedded import retention
from stage.simulation.neighbours import Order
from stage.simulation.network import Message
from stage.simulation.node import Node
from stage.simulation.world import Result, World
from tests.kits import Strikes
from tests.simulation.test_outages import Case, ask_to_compensate, begin, ended, known_of, play
from tests.sizes import SIZES

pytestmark = [
    pytest.mark.blocking,  # the virtual loop never waits for anything real
]

CHAIN = Case("payment", chain=("plain", "plain"))
STAGES = ("order", "payment")
HOUR, DAY = 3_600.0, 86_400.0
JUMPS = (-HOUR, -120.0, 120.0, HOUR, 8 * DAY, 30 * DAY)
WRONG_SECONDS = 300.0
"""A clock that is mended is wrong for so long; shorter than until it is believed."""
BETWEEN_SECONDS = 900.0
"""Between the end of a saga and the request to undo it: by then retention has had its turn."""
USUAL_SECONDS = 5.0
"""A saga takes less, forward or back, also when one message of it has to be sent again."""
BUDGET_SECONDS = 60.0
MESSAGES = range(1, 9)
"""A saga of this chain takes four messages forward, and four back."""
ASKED = (1, 5)
"""The client sends these, each once."""
AWAY_SECONDS = 0.3
RESTARTED_SECONDS = 60.0
"""The same where a process has to start meanwhile."""


class Besides(StrEnum):
    """The trouble of the same moment."""

    NOTHING = "nothing"
    LOST = "lost"
    """The receiver is away, so that the message is due again after a pause."""
    DIES = "dies"
    """The process dies, and another one starts under the wrong clock."""


class Jump(NamedTuple):
    """The clock of a stage jumps when the message of that number leaves."""

    stage: str
    seconds: float
    message: int
    stays: bool
    """It stays wrong; otherwise it is mended a while later."""
    besides: Besides

    def __str__(self) -> str:
        how = "stays" if self.stays else "is mended"
        return f"{self.stage} {self.seconds:+.0f} s at {self.message}, {self.besides}, {how}"


ALL = [
    jump
    for values in product(STAGES, JUMPS, MESSAGES, (False, True), Besides)
    if (jump := Jump(*values)).besides is Besides.NOTHING or jump.message not in ASKED
]


def node_of(world: World, stage: str) -> Node:
    return next(node for node in world.nodes if node.name == stage)


class Striking:
    """Counts the messages of a world, and lets the clock jump at one of them."""

    def __init__(self, world: World, jump: Jump) -> None:
        self._world = world
        self._jump = jump
        self._carry = world.network.carry
        self.messages = 0
        self.struck = ""
        vars(world.network)["carry"] = self.carry

    async def carry(self, message: Message, *rest: Any) -> Any:
        """Carry a message; at its number the clock jumps first."""
        self.messages += 1
        if self.messages == self._jump.message:
            self.struck = f"{message.source} to {message.target}"
            self._strike(message.target)
        return await self._carry(message, *rest)

    def _strike(self, target: str) -> None:
        node, jump, loop = node_of(self._world, self._jump.stage), self._jump, self._world.loop
        node.ahead += jump.seconds
        if not jump.stays:
            loop.call_later(WRONG_SECONDS, setattr, node, "ahead", node.ahead - jump.seconds)
        if jump.besides is Besides.DIES and node.newest is not None:
            node.crash(node.newest)
        elif jump.besides is Besides.LOST:
            self._world.network.down.add(target)
            loop.call_later(AWAY_SECONDS, self._world.network.down.discard, target)


def jumped(jump: Jump) -> str:
    """The fault of a saga that goes there and back with that jump; empty when it has none."""
    struck: list[str] = []
    dies = jump.besides is Besides.DIES
    seconds = RESTARTED_SECONDS if dies else USUAL_SECONDS

    async def drive(world: World) -> None:
        striking = Striking(world, jump)
        order = await begin(world, "s0-0", BUDGET_SECONDS)
        if dies and await turned_back(world, order):
            await ended(world, order, SagaState.COMPENSATED, seconds)
        else:
            await ended(world, order, SagaState.COMPLETED, seconds)
            await asyncio.sleep(WRONG_SECONDS if dies else BETWEEN_SECONDS)
            order.done = False
            await ask_to_compensate(world, order)
            await ended(world, order, SagaState.COMPENSATED, seconds)
        struck.append(striking.struck)

    return wrong_with(drive, struck)


async def turned_back(world: World, order: Order) -> bool:
    """Whether the saga went back, once it has gone as far as it goes."""
    until = world.loop.time() + RESTARTED_SECONDS
    while world.loop.time() < until:
        state = known_of(world, order).row.state
        if state is not SagaState.ACTIVE:
            return state is not SagaState.COMPLETED
        await asyncio.sleep(0.05)
    return False


def wrong_with(drive: Callable[[World], Any], struck: list[str]) -> str:
    """The fault of a world that is driven so; empty when it has none."""
    try:
        result: Result = play(CHAIN, drive)
    except AssertionError as error:
        return str(error) or "an assertion failed"
    if not struck or not struck[0]:
        return "the clock never jumped"
    left = {state for state in result.states if state != "compensated"}
    return f"{result.states}" if left else ""


def skewed(first: float, second: float) -> str:
    """The same where the clocks of both stages are wrong from the beginning."""

    async def drive(world: World) -> None:
        for stage, ahead in zip(STAGES, (first, second), strict=True):
            node_of(world, stage).ahead = ahead
        order = await begin(world, "s0-0", HOUR)
        await ended(world, order, SagaState.COMPLETED, USUAL_SECONDS)
        order.done = False
        await ask_to_compensate(world, order)
        await ended(world, order, SagaState.COMPENSATED, USUAL_SECONDS)

    return wrong_with(drive, ["skewed"])


@pytest.mark.kit("F24")
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seconds", JUMPS, ids=lambda seconds: f"{seconds:+.0f}")
def test_a_clock_that_jumps_changes_no_end_and_no_wait(
    stage: str, seconds: float, strikes: Strikes
) -> None:
    """At every message, for a while and for good, alone and with other trouble."""
    cases = [jump for jump in ALL if (jump.stage, jump.seconds) == (stage, seconds)]
    cases = cases[:: SIZES.jump_stride]
    wrong = [f"{jump}: {found}" for jump in cases if (found := jumped(jump))]

    strikes.report("jumps", len(cases), violations=len(wrong))
    assert [] == wrong


@pytest.mark.kit("F24")
@pytest.mark.parametrize("first, second", list(product((-120.0, 0.0, 120.0), repeat=2)))
def test_clocks_that_differ_harm_nobody(first: float, second: float, strikes: Strikes) -> None:
    """Two minutes between any two: the budget is measured by each clock alone."""
    strikes.report("skews", 1)
    assert skewed(first, second) == ""


def the_wall_clock_is_believed(patch: pytest.MonkeyPatch) -> None:
    """It counts at once."""
    patch.setattr(SteadyClock, "now", lambda self: self._wall())


def what_is_over_is_closed_by_a_wrong_clock(patch: pytest.MonkeyPatch) -> None:
    """Retention does not ask whether the clock has jumped, and goes by the wall."""
    patch.setattr(retention, "jump_of", lambda _: 0.0)
    the_wall_clock_is_believed(patch)


def a_jump_is_believed_too_early(patch: pytest.MonkeyPatch) -> None:
    """After a minute of agreement with itself."""
    patch.setattr("stage.engine.clock.STEADY_SECONDS_MIN", 60.0)
    patch.setattr("stage.engine.clock.STEADY_SECONDS_MAX", 60.0)


Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    "plant",
    [
        the_wall_clock_is_believed,
        what_is_over_is_closed_by_a_wrong_clock,
        a_jump_is_believed_too_early,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_defect_of_clocks_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """By some jump of the enumeration."""
    plant(monkeypatch)
    some = [jump for jump in ALL if abs(jump.seconds) >= HOUR and jump.stage == "order"]

    assert any(jumped(jump) for jump in some)
