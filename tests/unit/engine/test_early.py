"""Who is answered before the commit that ends the saga, and who is not (decision 0011)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from stage.core import events as e
from stage.demo.payment import payment
from stage.engine import limits
from stage.engine.embedded import EmbeddedEngine
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.silent import SilentObserver
from tests.unit.engine.test_cost import Agreeable, Counted

T = TypeVar("T")


class Shared(MemoryStore):
    """A store that others may write to, or not; it remembers what was patient."""

    alone = True
    patient: list[bool]

    @property
    def exclusive(self) -> bool:
        """As told."""
        return self.alone

    async def transact(self, work: Callable[[Unit], Awaitable[T]], *, patient: bool = False) -> T:
        """Remember, and run."""
        self.patient.append(patient)
        return await super().transact(work, patient=patient)


@pytest.mark.parametrize("alone", [True, False])
async def test_where_others_write_the_answer_waits_for_its_commit(alone: bool) -> None:
    """A run that is stale without knowing it must not answer (rule 17)."""
    assert payment.migrations is not None
    store = Shared(migrations=(payment.migrations,))
    store.alone, store.patient = alone, []
    await store.open()
    engine = EmbeddedEngine(payment.bind(("shipping",)), store, Agreeable(), SilentObserver())
    await engine.start()
    await Counted(engine, Counter()).run("s-1")
    await engine.drain(1.0)
    await store.close()
    assert alone is any(store.patient)


class Stuck(Shared):
    """What nobody waits for is never written."""

    reachable = True

    @property
    def available(self) -> bool:
        """As told."""
        return self.reachable

    async def transact(self, work: Callable[[Unit], Awaitable[T]], *, patient: bool = False) -> T:
        """Run it, or wait for ever."""
        if patient:
            await asyncio.Event().wait()
        return await super().transact(work, patient=patient)


@pytest.mark.parametrize("reachable, seconds", [(True, 0.01), (False, 3600.0)])
async def test_who_reads_does_not_wait_for_an_end_that_is_not_written(
    monkeypatch: pytest.MonkeyPatch, reachable: bool, seconds: float
) -> None:
    """At most WRITTEN_SECONDS_MAX, and not at all while the database is away."""
    monkeypatch.setattr(limits, "WRITTEN_SECONDS_MAX", seconds)
    assert payment.migrations is not None
    store = Stuck(migrations=(payment.migrations,))
    store.patient = []
    await store.open()
    engine = EmbeddedEngine(payment.bind(("shipping",)), store, Agreeable(), SilentObserver())
    await engine.start()
    await Counted(engine, Counter()).run("s-1")
    store.reachable = reachable

    async with asyncio.timeout(5.0):
        entries = await engine.journal("s-1")
    assert entries and not isinstance(entries[-1].event, e.Completed)
    await engine.drain(0.0)
    await store.close()
