"""Sagas under Temporal while its worker and a stage are killed at random.

Temporal drives the chain, or it drives payment: then the stage is the worker of the workflows.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from stage.demo.chain import ChainError, Service
from tests.acceptance.orchestrators.callers import CALLERS, Caller, TemporalEngine
from tests.acceptance.orchestrators.parts import DONE, Books

KILLED = ("temporal", "temporal_engine")
"""The callers with processes that can be killed."""
AT_ONCE = 16
BUDGET_SECONDS = 600.0
POLL_SECONDS = 0.05
APART_SECONDS_MAX = 1.0
"""A kill comes up to so long after a saga has ended: at any point of those in flight."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The ends of the sagas of one run."""

    outcomes: dict[str, int]
    """How many had it, as their callers saw it first."""
    killed: dict[str, int]
    """How often, by process."""
    wrong: list[str]
    """The sagas with another outcome or other books than they should have."""


async def run(name: str, folder: Path, *, sagas: int, kills: int, seed: int) -> Found:
    """Run so many sagas under that caller, with so many kills meanwhile."""
    dice = random.Random(seed)
    caller = CALLERS[name](folder)
    try:
        await caller.start()
        await misbehave(caller)
        scripts = [dice.choice(SCRIPTS)[0] for _ in range(sagas)]
        outcomes = {f"{script}.{number}": "" for number, script in enumerate(scripts)}
        marks = sorted(dice.sample(range(sagas - AT_ONCE), kills))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(place(caller, outcomes))
            killing = tasks.create_task(kill(caller, dice, outcomes, marks))
        wrong = await judged(caller, outcomes)
    finally:
        await caller.stop()
    seen = dict(Counter(outcomes.values()))
    return Found(outcomes=seen, killed=killing.result(), wrong=wrong)


async def misbehave(caller: Caller) -> None:
    """Hand out the scripts."""
    for name, service, script in SCRIPTS:
        if service:
            where = getattr(caller.parts, service)
            await caller.parts.client.script(where, {**script, "match": f"{name}."})


async def place(caller: Caller, outcomes: dict[str, str]) -> None:
    """Run the sagas, some at a time: fill in the outcome of each as its caller saw it first."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(saga_id: str) -> None:
        async with places:
            outcomes[saga_id] = await caller.run(saga_id, BUDGET_SECONDS)

    await asyncio.gather(*map(one, outcomes))


async def kill(
    caller: Caller, dice: random.Random, outcomes: dict[str, str], marks: list[int]
) -> dict[str, int]:
    """SIGKILL the worker or the stage, and start it again: once for each mark.

    A mark is the number of sagas that have ended before: so there are always some in flight, and
    as many kills as were asked for.
    """

    async def stage() -> None:
        await caller.parts.payment.kill()
        await started(caller.parts.payment)

    ways: dict[str, Callable[[], Awaitable[None]]] = {"stage": stage}
    if not isinstance(caller, TemporalEngine):  # whose worker is the stage
        ways["worker"] = caller.lose_worker
    killed: Counter[str] = Counter()
    for mark in marks:
        while sum(map(bool, outcomes.values())) < mark:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(POLL_SECONDS)
        await asyncio.sleep(dice.uniform(0, APART_SECONDS_MAX))
        name = dice.choice(sorted(ways))
        await ways[name]()
        killed[name] += 1
    return dict(killed)


async def started(service: Service) -> None:
    """Start it, and once more where a busy machine was too slow for it. Raises ChainError."""
    try:
        await service.start()
    except ChainError:
        await service.start()


async def judged(caller: Caller, outcomes: dict[str, str]) -> list[str]:
    """The sagas whose outcome or books are wrong; late failures get a while to be undone."""
    wrong = []
    for saga_id, outcome in outcomes.items():
        name = saga_id.partition(".")[0]
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            if name == "late":  # it ends executed first, unless it fails before the answer is seen
                outcome = await caller.late(saga_id)
            books = await caller.parts.books(saga_id)
        if outcome != ("executed" if name in WELL else "compensated") or not fits(name, books):
            wrong.append(f"{saga_id}: {outcome}, {books}")
    return wrong


def fits(name: str, books: Books) -> bool:
    """Executed once each, or whatever was done is undone; nothing was ever done twice."""
    if name in WELL:
        return books == DONE
    return books.charges == books.parcels == 0 and books.charged <= 1 and books.sent <= 1
