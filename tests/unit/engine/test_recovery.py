"""Recovery and retention give way to new sagas: they work a little, and pause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import pytest

from stage.engine.embedded import recovery
from stage.engine.embedded.limits import (
    CLOSE_SAGAS_MAX,
    CLOSE_SHARE,
    RECOVERY_BURST,
    RECOVERY_PAUSE_SECONDS,
    RECOVERY_SCAN_SECONDS,
    RECOVERY_SHARE,
    EngineLimits,
)
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.recovery import Recovery
from stage.engine.embedded.retention import Retention
from stage.engine.saga.dropped import DroppedRows
from stage.engine.saga.opening import OpenRequest
from stage.ports.engine import LeftToNewer
from stage.ports.ownership import Ownership
from stage.ports.store import Store, Unit
from stage.store.sole_owner import SoleOwner
from stage.telemetry.null import NullObserver

UNIT_SECONDS = 0.02


class HandClock:
    """A clock that wakes its sleepers by hand; it remembers how long each wanted to sleep."""

    def __init__(self) -> None:
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.asleep = asyncio.Semaphore(0)
        """Released by each sleeper."""

    def now(self) -> float:
        """Always the same."""
        return 1_000.0

    async def sleep(self, seconds: float) -> None:
        """Until `wake` is called with the same seconds."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((seconds, future))
        self.asleep.release()
        await future

    async def wake(self, seconds: float) -> None:
        """Wake the sleepers of that length, and wait until all sleep again."""
        for wanted, future in self.sleepers:
            if wanted == seconds and not future.done():
                future.set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)


class Opened:
    """LiveSagas that run nothing: only their ids are in memory."""

    def __init__(self) -> None:
        self.live: dict[str, LiveSaga] = {}
        self.draining = False
        self.left: Callable[[LiveSaga], None] = lambda _: None

    def __contains__(self, saga_id: str) -> bool:
        return saga_id in self.live

    def open(self, request: OpenRequest, *, recovered: bool = False) -> LiveSaga:
        """A live saga that stays until the test lets it leave."""
        self.live[request.saga_id] = live = LiveSaga(request)
        live.recovered = recovered
        return live


class Due:
    """ports.store.Store with sagas that are due, and others that can be closed."""

    def __init__(self, due: int, closable: int = 0) -> None:
        self.ids = [f"s{number:05}" for number in range(due)]
        self.closable = closable
        self.ownership = SoleOwner(self.due)

    async def due(self, before: float, limit: int, version: int) -> list[str]:
        """All of them, and none at the next scan."""
        found, self.ids = self.ids, []
        return found

    async def transact(
        self, work: Callable[[Unit], Awaitable[int]], *, deferrable: bool = False
    ) -> int:
        """Takes as long as a busy writer."""
        await asyncio.sleep(UNIT_SECONDS)
        return await work(cast(Unit, self))

    async def close_ended(self, before: float, at: float, limit: int) -> int:
        """As many as may be closed in one unit."""
        closed = min(limit, self.closable)
        self.closable -= closed
        return closed


def recovery_of(store: Due, clock: HandClock, sagas: Opened, **limits: Any) -> Recovery:
    return Recovery(
        cast(LiveSagas, sagas),
        SoleOwner(store.due),
        NullObserver(),
        clock,
        EngineLimits(**limits),
    )


async def test_unfinished_sagas_are_taken_over_a_few_at_a_time() -> None:
    """New sagas come in between: with all at once, they waited for seconds."""
    clock, sagas = HandClock(), Opened()
    taking_over = recovery_of(Due(100), clock, sagas)
    await taking_over.start()
    assert taking_over.recovered
    seen = [len(sagas.live)]
    for _ in range(3):
        await asyncio.sleep(0)
        await clock.wake(RECOVERY_PAUSE_SECONDS)
        seen.append(len(sagas.live))
    taking_over.stop()
    assert [RECOVERY_BURST * turn for turn in (1, 2, 3, 4)] == seen


async def test_no_more_are_taken_over_than_there_is_room_for() -> None:
    """Until one of them leaves memory."""
    clock, sagas = HandClock(), Opened()
    taking_over = recovery_of(Due(100), clock, sagas, sagas_max=10)
    await taking_over.start()
    for _ in range(10):
        await asyncio.sleep(0)
        await clock.wake(RECOVERY_PAUSE_SECONDS)
    room = int(10 * RECOVERY_SHARE)
    assert room == len(sagas.live)

    gone = sagas.live.pop("s00000")
    sagas.left(gone)
    await asyncio.sleep(0)
    await clock.wake(RECOVERY_PAUSE_SECONDS)
    taking_over.stop()
    assert room == len(sagas.live)
    assert f"s{room:05}" in sagas.live


class StillDue:
    """ports.ownership.Ownership of sagas that are due again and again, the oldest first."""

    def __init__(self, *saga_ids: str) -> None:
        self.ids = saga_ids
        self.released: set[str] = set()

    async def claim(self, now: float, limit: int, version: int) -> dict[str, int]:
        """The oldest of them."""
        return dict.fromkeys(self.ids[:limit], 1)

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """Remembers them."""
        self.released.update(sagas)


async def test_sagas_of_a_newer_release_keep_none_behind_them_from_recovery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There are more of them than one scan takes, and all are due before the other."""
    monkeypatch.setattr(recovery, "DUE_IDS_MAX", 3)
    monkeypatch.setattr(recovery, "RECOVERY_IDS_MAX", 3)
    newer = [f"newer-{number}" for number in range(7)]
    clock, sagas, ownership = HandClock(), Opened(), StillDue(*newer, "s-1")
    recovering = Recovery(
        cast(LiveSagas, sagas), cast(Ownership, ownership), NullObserver(), clock, EngineLimits()
    )
    await recovering.start()
    for _ in range(20):
        for saga_id in [saga_id for saga_id in sagas.live if saga_id in newer]:
            live = sagas.live.pop(saga_id)
            live.refuse(LeftToNewer("it goes on there"))
            sagas.left(live)
        await clock.wake(RECOVERY_PAUSE_SECONDS)
        await clock.wake(RECOVERY_SCAN_SECONDS)
    recovering.stop()
    assert ["s-1"] == list(sagas.live)
    assert set(newer) == ownership.released


@pytest.mark.parametrize("closable", [CLOSE_SAGAS_MAX, 10 * CLOSE_SAGAS_MAX])
async def test_closing_rests_for_longer_than_it_works(closable: int) -> None:
    """While there is more to close, and in proportion to how long the writer took for it."""
    clock, store = HandClock(), Due(0, closable)
    limits = EngineLimits(compensation_window_seconds=60.0)
    dropped = DroppedRows(cast(Store, store), clock)
    retention = Retention(cast(Store, store), NullObserver(), clock, limits, dropped)
    retention.start()
    await clock.asleep.acquire()
    await clock.wake(60.0)  # the first one waits, for a clock that may be wrong (rule 34)
    await clock.asleep.acquire()
    retention.stop()
    assert closable - CLOSE_SAGAS_MAX == store.closable
    rest = max(seconds for seconds, _ in clock.sleepers if seconds < 5.0)
    assert rest >= UNIT_SECONDS * (1.0 / CLOSE_SHARE - 1.0) * 0.9
