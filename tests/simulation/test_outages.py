"""F21: outages of each peer at each step, forward and back, from one second to days.

Nothing is given up before the deadline or patience is over, and no peer gets more than its rate.
All of it is played in virtual time, through the real endpoints and the real sender.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from stage.core import events as e
from stage.core.states import SagaState
from stage.ports.peers import PeerLimits
from stage.simulation.api import ApiModel
from stage.simulation.facts import Known
from stage.simulation.faults import KINDS
from stage.simulation.loop import EPOCH
from stage.simulation.neighbours import CLIENT, TAIL, Order, Verdict
from stage.simulation.network import Message
from stage.simulation.world import Result, Scenario, World, simulate_world
from stage.wire.replies import encode_compensate
from tests.kits import Strikes
from tests.sizes import SIZES

pytestmark = [
    pytest.mark.kit("F21"),
    pytest.mark.blocking,  # the virtual loop never waits for anything real
]

LENGTHS = (1.0, 15.0, 480.0, 3_600.0, 21_600.0)
DAYS = SIZES.outage_seconds
"""At level G 2.9 days: patience is three."""
LAG_SECONDS = 400.0
"""An undo may wait so long after the peer is back: its longest pause, and the way."""
API, API_BEHIND = "order-api", "payment-api"
HOUR = 3_600.0


class Refusing(ApiModel):
    """An API that says a business no to everything."""

    def _will(self, key: str, fault: str) -> bool:
        return fault != "api_refuses"


class Case(NamedTuple):
    """Where an outage strikes: which peer is away while which step is due."""

    peer: str
    chain: tuple[str, ...] = ("plain",)
    tail: bool = False


AT_EACH_STEP = (
    Case(API),
    Case(TAIL, tail=True),
    Case("payment", chain=("plain", "plain")),
    Case(API_BEHIND, chain=("plain", "plain")),
)


def play(case: Case, drive: Callable[[World], Awaitable[None]], **options: Any) -> Result:
    """One world without any fault but what `drive` does."""
    scenario = Scenario(
        chain=case.chain,
        tail=case.tail,
        without=frozenset(KINDS),
        drive=drive,
        **options,
    )
    result = simulate_world(0, scenario)
    assert not result.violations, result.violations[0]
    assert not result.states["parked"]
    return result


async def begin(world: World, saga: str, deadline: float) -> Order:
    """Send a saga, and be told its end later."""
    now = EPOCH + world.loop.time()
    order = world.client.begin(saga, {"amount": 1}, now + deadline)
    await world.client.post(order, order.body, wait=False)
    order.accepted = True
    return order


async def ask_to_compensate(world: World, order: Order) -> None:
    """Once: the stage has to remember it."""
    path, body = f"/sagas/{order.saga}/compensate", encode_compensate(CLIENT, "turned back")
    order.asked = True
    asked = Message(source=CLIENT, target="order", path=path, body=body, saga=order.saga)
    await world.network.carry(asked, 5.0)


def known_of(world: World, order: Order, stage: str = "order") -> Known:
    return world.books.known[stage, order.saga]


async def ended(world: World, order: Order, state: SagaState, seconds: float) -> float:
    """When the saga had ended so; it has, within that time."""
    until = world.loop.time() + seconds
    while known_of(world, order).row.state is not state or known_of(world, order).row.due_at:
        row = known_of(world, order).row
        assert world.loop.time() < until, f"{row.state} {row.parked} after {seconds} s"
        await asyncio.sleep(0.05 if seconds < 60 else 1.0)
    done = state is SagaState.COMPLETED
    order.verdict = Verdict.EXECUTED if done else Verdict.FAILED
    order.done = True
    return world.loop.time()


def refused(world: World, peer: str) -> int:
    """How many connections to the peer were not made: proof that the outage struck."""
    return sum(
        "connection refused" in line.text and peer in line.text for line in world.transcript.lines
    )


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("case", AT_EACH_STEP, ids=lambda case: f"{case.peer}")
def test_an_outage_on_the_way_forward_is_outlasted(
    case: Case, seconds: float, strikes: Strikes
) -> None:
    """While the deadline has room for it the saga completes: no attempt was used up."""

    async def drive(world: World) -> None:
        world.network.down.add(case.peer)
        order = await begin(world, "s0-0", 2 * seconds + 2 * LAG_SECONDS)
        await asyncio.sleep(seconds)
        assert refused(world, case.peer) >= 2, "the outage never struck"
        world.network.down.clear()
        await ended(world, order, SagaState.COMPLETED, LAG_SECONDS)
        assert not any(isinstance(event, e.TurnedBack) for event in known_of(world, order).events)

    result = play(case, drive)
    strikes.report("outages", 1)
    assert result.states["completed"]


@pytest.mark.parametrize("case", AT_EACH_STEP, ids=lambda case: f"{case.peer}")
def test_an_outage_past_the_deadline_turns_the_saga_back_then(case: Case, strikes: Strikes) -> None:
    """Not before it, and with nothing left standing once the peer is there."""
    budget = 60.0

    async def drive(world: World) -> None:
        world.network.down.add(case.peer)
        began = EPOCH + world.loop.time()
        order = await begin(world, "s0-0", budget)
        await asyncio.sleep(480.0)
        world.network.down.clear()
        await ended(world, order, SagaState.COMPENSATED, LAG_SECONDS)
        (turned,) = (
            event
            for event in known_of(world, order, deepest(case)).events
            if isinstance(event, e.TurnedBack)
        )
        assert 0.7 * budget < turned.at - began <= budget

    play(case, drive)
    strikes.report("outages", 1)


def deepest(case: Case) -> str:
    """The stage whose peer is away."""
    return "payment" if case.peer == API_BEHIND else "order"


@pytest.mark.parametrize(
    "case, seconds",
    [*((case, seconds) for case in AT_EACH_STEP for seconds in LENGTHS), (Case(API), DAYS)],
    ids=lambda value: value.peer if isinstance(value, Case) else f"{value:g}",
)
def test_an_outage_on_the_way_back_is_outlasted(
    case: Case, seconds: float, strikes: Strikes
) -> None:
    """However many attempts it takes: all is undone soon after the peer is back."""

    async def drive(world: World) -> None:
        order = await begin(world, "s0-0", HOUR)
        await ended(world, order, SagaState.COMPLETED, 30.0)
        order.done = False
        world.network.down.add(case.peer)
        await ask_to_compensate(world, order)
        await asyncio.sleep(seconds)
        assert refused(world, case.peer) >= 2, "the outage never struck"
        world.network.down.clear()
        await ended(world, order, SagaState.COMPENSATED, LAG_SECONDS)
        journal = sum(len(known.events) for known in world.books.known.values())
        assert journal < 4_500

    result = play(case, drive)
    strikes.report("outages", 1)
    assert not result.states["failed_to_compensate"]


@pytest.mark.parametrize("seconds", LENGTHS)
def test_an_upstream_that_is_away_is_notified_when_it_is_back(
    seconds: float, strikes: Strikes
) -> None:
    """The saga failed after upstream had been answered 202."""

    async def drive(world: World) -> None:
        order = await begin(world, "s0-0", HOUR)
        world.network.down.add(CLIENT)
        await asyncio.sleep(seconds)
        assert not order.asked_back
        assert refused(world, CLIENT) >= 2, "the outage never struck"
        world.network.down.clear()
        await ended(world, order, SagaState.COMPENSATED, LAG_SECONDS)
        assert order.asked_back

    play(Case(CLIENT), drive, models={API: Refusing})
    strikes.report("outages", 1)


SAGAS = SIZES.undos
RATE = 10.0


def test_after_ten_minutes_without_its_api_all_undos_keep_to_the_rate(strikes: Strikes) -> None:
    """All are undone after it is back, and new sagas are not kept out by them."""
    sent: dict[str, list[float]] = defaultdict(list)

    async def drive(world: World) -> None:
        watch(world, sent)
        orders = [await begin(world, f"s0-{number}", HOUR) for number in range(SAGAS)]
        for order in orders:
            await ended(world, order, SagaState.COMPLETED, 2 * SAGAS / RATE)
            order.done = False
        world.network.down.add(API)
        for order in orders:
            await ask_to_compensate(world, order)
        await asyncio.sleep(600.0)
        assert refused(world, API) > SAGAS, "the outage never struck"
        world.network.down.clear()
        back = world.loop.time()
        late = await begin(world, "s0-late", 60.0)
        await ended(world, late, SagaState.COMPLETED, 30.0)
        for order in orders:
            await ended(world, order, SagaState.COMPENSATED, LAG_SECONDS)
        assert sum(at > back for at in sent[API]) >= SAGAS

    limits = {f"externals.{API}": PeerLimits(concurrency_max=20, rate_per_second=RATE)}
    result = play(Case(API), drive, limits=limits)

    strikes.report("undos", SAGAS)
    assert SAGAS == result.states["compensated"]
    assert max_in_a_second(sent[API]) <= RATE + 1


def watch(world: World, sent: dict[str, list[float]]) -> None:
    """Note when each request to a peer leaves, also those that find no connection."""
    carry = world.network.carry

    async def noted(message: Message, *rest: Any) -> Any:
        sent[message.target].append(world.loop.time())
        return await carry(message, *rest)

    vars(world.network)["carry"] = noted


def max_in_a_second(times: list[float]) -> int:
    """The most requests that left within any second."""
    most, first = 0, 0
    for number, at in enumerate(times):
        while at - times[first] >= 1.0:
            first += 1
        most = max(most, number - first + 1)
    return most
