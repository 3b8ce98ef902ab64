"""Who is answered before the commit that ends the saga, and who is not (decision 0011)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from stage.bootstrap import make_store
from stage.config import Config
from stage.demo.payment import payment
from stage.engine.embedded import EmbeddedEngine
from stage.ports.observer import TraceContext
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry.silent import SilentObserver
from stage.wire.envelope import Envelope
from tests.unit.engine.test_cost import ORDER, Agreeable

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
    made = make_store(payment, Config(database="sqlite:///:memory:"))
    assert isinstance(made, MemoryStore)
    made.__class__ = Shared
    assert isinstance(made, Shared)
    made.alone, made.patient = alone, []
    await made.open()
    engine = EmbeddedEngine(payment.bind(("shipping",)), made, Agreeable(), SilentObserver())
    await engine.start()
    reply = await engine.accept(
        Envelope(saga_id="s-1", data=ORDER),
        trace=TraceContext(),
        deadline=None,
        respond_async=False,
        wait_seconds=20.0,
    )
    assert reply is not None
    assert 200 == reply.status
    await engine.drain(1.0)
    await made.close()
    assert alone is any(made.patient)
