"""The fourteen stories that every caller has to bring to one end, by the books of the world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from tests.acceptance.orchestrators.callers import Caller
from tests.acceptance.orchestrators.parts import DONE, UNDONE, Books

NOTHING = Books(charged=0, charges=0, sent=0, parcels=0)
ONLY_CHARGED = Books(charged=1, charges=0, sent=0, parcels=0)
PARCEL_STANDS = Books(charged=1, charges=0, sent=1, parcels=1)
PATIENT_SECONDS = 120.0
"""No deadline may pass while a busy machine starts a process again."""
SHORT_SECONDS = 8.0
"""A deadline that passes while the tail hangs: on a busy machine the charge is made by then."""


class Story(NamedTuple):
    """A story: `act` runs saga `saga_id` to its outcome; `books` are what the world must say."""

    title: str
    act: Callable[[Caller, str], Awaitable[str]]
    outcome: str
    books: Books


async def completed(caller: Caller, saga_id: str) -> str:
    """Nothing goes wrong."""
    return await caller.run(saga_id)


async def refused_first(caller: Caller, saga_id: str) -> str:
    """The card is declined."""
    await psp(caller, script="refuse", match=saga_id)
    return await caller.run(saga_id)


async def refused_last(caller: Caller, saga_id: str) -> str:
    """There is no parcel."""
    await shipping(caller, script="refuse", match=saga_id)
    return await caller.run(saga_id)


async def in_doubt_found(caller: Caller, saga_id: str) -> str:
    """The charge lands, and its answer is lost."""
    await psp(caller, script="effect-then-drop", times=1, match=saga_id)
    return await caller.run(saga_id)


async def in_doubt_not_found(caller: Caller, saga_id: str) -> str:
    """The charge does not land, and nobody says so."""
    await psp(caller, script="hang", times=1, match=saga_id)
    return await caller.run(saga_id)


async def late_failure(caller: Caller, saga_id: str) -> str:
    """The tail answers yes, and fails a moment later."""
    # Later than the slowest caller hears of the yes, on a machine with much else to do.
    await shipping(caller, script="late-failure", seconds=3.0, match=saga_id)
    assert "executed" == await caller.run(saga_id)
    return await caller.late(saga_id)


async def overtaken(caller: Caller, saga_id: str) -> str:
    """The compensation comes before its saga."""
    assert "compensated" == await caller.compensate(saga_id)
    return await caller.run(saga_id)


async def duplicates(caller: Caller, saga_id: str) -> str:
    """The same saga five times at once, and once more."""
    outcomes = await asyncio.gather(*(caller.run(saga_id) for _ in range(5)))
    assert 1 == len(set(outcomes))
    return await caller.run(saga_id)


async def killed_stage(caller: Caller, saga_id: str) -> str:
    """The stage dies between the charge and its commit."""
    await psp(caller, script="effect-then-hang", times=1, match=saga_id)
    running = asyncio.create_task(caller.run(saga_id, PATIENT_SECONDS))
    await caller.parts.client.until_charged(caller.parts.psp, saga_id)
    await caller.parts.payment.kill()
    await caller.parts.payment.start()
    return await running


async def killed_worker(caller: Caller, saga_id: str) -> str:
    """The process that drives the saga dies while the tail works."""
    return await _killed(caller, saga_id, caller.lose_worker)


async def killed_server(caller: Caller, saga_id: str) -> str:
    """The server behind it dies while the tail works, and comes back."""
    return await _killed(caller, saga_id, caller.lose_server)


async def _killed(caller: Caller, saga_id: str, kill: Callable[[], Awaitable[None]]) -> str:
    await shipping(caller, script="slow", seconds=1.0, match=saga_id)
    running = asyncio.create_task(caller.run(saga_id, PATIENT_SECONDS))
    try:
        await caller.parts.client.until_charged(caller.parts.psp, saga_id)
        await kill()
    except BaseException:
        running.cancel()
        raise
    return await running


async def deadline(caller: Caller, saga_id: str) -> str:
    """The tail hangs until the deadline is over."""
    await shipping(caller, script="hang", match=saga_id)
    return await caller.run(saga_id, SHORT_SECONDS)


async def parked_then_settled(caller: Caller, saga_id: str) -> str:
    """The refund fails, the saga waits for a person, who has it tried again."""
    await shipping(caller, script="refuse", match=saga_id)
    await psp(caller, script="refund-fails", match=saga_id)
    assert "failed_to_compensate" == await caller.run(saga_id, SHORT_SECONDS)
    view = await caller.parts.client.saga(caller.parts.payment, saga_id)
    assert view is not None and view["parked"], view
    await psp(caller, script="ok", match=saga_id)
    retry = f"{caller.parts.payment.url}/sagas/{saga_id}/retry"
    await caller.parts.client.post(retry, {"actor": "kim", "reason": "psp is back"})
    await caller.parts.until(saga_id, ONLY_CHARGED)
    return await caller.compensate(saga_id)


async def undo_fails(caller: Caller, saga_id: str) -> str:
    """The tail cannot take its parcel back."""
    await shipping(caller, script="compensate-fails", match=saga_id)
    assert "executed" == await caller.run(saga_id)
    return await caller.compensate(saga_id)


async def psp(caller: Caller, **script: Any) -> None:
    """Have the external API misbehave."""
    await caller.parts.client.script(caller.parts.psp, script)


async def shipping(caller: Caller, **script: Any) -> None:
    """Have the tail misbehave."""
    await caller.parts.client.script(caller.parts.shipping, script)


STORIES = {
    "completed": Story("completed", completed, "executed", DONE),
    "refused-first": Story("refused by the first stage", refused_first, "compensated", NOTHING),
    "refused-last": Story("refused by the last stage", refused_last, "compensated", ONLY_CHARGED),
    "found": Story("in doubt, found", in_doubt_found, "executed", DONE),
    "not-found": Story("in doubt, not found", in_doubt_not_found, "executed", DONE),
    "late": Story("late failure", late_failure, "compensated", UNDONE),
    "overtaken": Story("overtaken by its compensation", overtaken, "compensated", NOTHING),
    "duplicates": Story("duplicates", duplicates, "executed", DONE),
    "killed-stage": Story("killed stage", killed_stage, "executed", DONE),
    "killed-worker": Story("killed worker", killed_worker, "executed", DONE),
    "killed-server": Story("killed server, and back", killed_server, "executed", DONE),
    "deadline": Story("deadline", deadline, "compensated", ONLY_CHARGED),
    "parked": Story("parked, then settled", parked_then_settled, "compensated", ONLY_CHARGED),
    "undo-fails": Story(
        "an undo that fails for good", undo_fails, "failed_to_compensate", PARCEL_STANDS
    ),
}
