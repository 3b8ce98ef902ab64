"""Sagas under a workflow of Temporal while its worker and a stage are killed at random (F29)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from examples.temporal.processes import NoServer, program
from tests.acceptance.orchestrators.callers import TemporalChain
from tests.acceptance.orchestrators.parts import DONE, Books
from tests.kits import Strikes
from tests.sizes import SIZES

AT_ONCE = 8
BUDGET_SECONDS = 600.0
KILL_SECONDS = (0.5, 3.0)
"""The shortest and the longest time between two kills."""
SETTLE_SECONDS_MAX = 60.0
SCRIPTS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("well", "", {}),
    ("no-card", "psp", {"script": "refuse"}),
    ("doubt", "psp", {"script": "effect-then-drop", "times": 1}),
    ("no-parcel", "shipping", {"script": "refuse"}),
    ("lost", "shipping", {"script": "crash-answer", "times": 1}),
    ("late", "shipping", {"script": "late-failure", "seconds": 0.5}),
)
"""The name with which saga ids begin, the service that misbehaves for them, and how."""
WELL = frozenset({"well", "doubt", "lost"})
"""Those that end executed; all others leave nothing."""


@pytest.mark.kit("F29")
@pytest.mark.timeout(3_600)
async def test_kills_lose_double_and_leave_nothing(tmp_path: Path, strikes: Strikes) -> None:
    """Each saga has one outcome, and the books of the world agree with it."""
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    dice = random.Random(SIZES.seed)
    chain = TemporalChain(tmp_path)
    try:
        await chain.start()
        await misbehave(chain)
        names = [dice.choice(SCRIPTS)[0] for _ in range(SIZES.driven_sagas)]
        sagas = [f"{name}.{number}" for number, name in enumerate(names)]
        running = asyncio.create_task(place(chain, sagas))
        killed = await kill(chain, dice, running)
        outcomes = await running
        wrong = await judged(chain, sagas, outcomes)
    finally:
        await chain.stop()
    strikes.report("kills", sum(killed.values()), seed=SIZES.seed, note=f"killed: {dict(killed)}")
    strikes.report("sagas", len(sagas), violations=len(wrong), note=f"{Counter(outcomes)}")
    assert [] == wrong


async def misbehave(chain: TemporalChain) -> None:
    """Hand out the scripts."""
    for name, service, script in SCRIPTS:
        if service:
            where = getattr(chain.parts, service)
            await chain.parts.client.script(where, {**script, "match": f"{name}."})


async def place(chain: TemporalChain, sagas: list[str]) -> list[str]:
    """Run the sagas, some at a time: the outcome of each as its caller saw it first."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(saga_id: str) -> str:
        async with places:
            return await chain.run(saga_id, BUDGET_SECONDS)

    return list(await asyncio.gather(*map(one, sagas)))


async def kill(
    chain: TemporalChain, dice: random.Random, running: asyncio.Task[list[str]]
) -> Counter[str]:
    """SIGKILL the worker or the stage, and start it again, until all is placed or enough died."""

    async def stage() -> None:
        await chain.parts.payment.kill()
        await chain.parts.payment.start()

    ways: dict[str, Callable[[], Awaitable[None]]] = {"worker": chain.lose_worker, "stage": stage}
    killed: Counter[str] = Counter()
    while sum(killed.values()) < SIZES.driven_kills and not running.done():
        await asyncio.sleep(dice.uniform(*KILL_SECONDS))
        name = dice.choice(sorted(ways))
        await ways[name]()
        killed[name] += 1
    return killed


async def judged(chain: TemporalChain, sagas: list[str], outcomes: list[str]) -> list[str]:
    """The sagas whose outcome or books are wrong; late failures get a while to be undone."""
    wrong = []
    async with asyncio.timeout(SETTLE_SECONDS_MAX):
        for saga_id, outcome in zip(sagas, outcomes, strict=True):
            name = saga_id.partition(".")[0]
            if name == "late":  # it ends executed first, unless it fails before the answer is seen
                outcome = await chain.late(saga_id)
            books = await chain.parts.books(saga_id)
            if outcome != ("executed" if name in WELL else "compensated") or not fits(name, books):
                wrong.append(f"{saga_id}: {outcome}, {books}")
    return wrong


def fits(name: str, books: Books) -> bool:
    """Executed once each, or whatever was done is undone; nothing was ever done twice."""
    if name in WELL:
        return books == DONE
    return books.charges == books.parcels == 0 and books.charged <= 1 and books.sent <= 1
