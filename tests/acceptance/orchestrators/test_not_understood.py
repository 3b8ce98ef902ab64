"""Foreign answers to a request to compensate: so many in a row end the asking, and no outage does.

Temporal itself keeps the count, as a detail of the last sign of life, from attempt to attempt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.worker import Worker

from stage.orchestrators.temporal import activities
from stage.orchestrators.temporal.activities import ChainActivities
from stage.orchestrators.temporal.client import Chain, end_of
from stage.orchestrators.temporal.workflow import CompensateAsk, SagaChain
from stage.ports.neighbour import Compensated, NotUnderstood
from stage.ports.observer import TraceContext
from stage.ports.stage import Lost
from tests.acceptance.orchestrators.test_cancelled import QUEUE, connected

STRANGE = NotUnderstood(reason="answered 404")
AWAY = Lost(reason="answered 503")
LOCKED = Lost(reason="answered 403", denied=True)
STORIES = {
    "t-away": ([STRANGE, AWAY, AWAY, STRANGE, Compensated()], "compensated"),
    "t-strange": ([AWAY, STRANGE, STRANGE, Compensated()], "failed_to_compensate"),
    "t-locked": ([LOCKED, STRANGE, AWAY, LOCKED], "failed_to_compensate"),
}
"""The answers of a stage, one an attempt, and how its saga ends."""


class Scripted:
    """A stage that answers for each saga with what is next."""

    def __init__(self) -> None:
        self.left = {saga_id: list(replies) for saga_id, (replies, _) in STORIES.items()}

    async def compensate(self, _: str, saga_id: str, *__: Any, **___: Any) -> Any:
        """The next reply."""
        return self.left[saga_id].pop(0)


@pytest.mark.timeout(150)
async def test_foreign_answers_are_counted_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one behind an outage is asked for again, and the second in a row is the last."""
    monkeypatch.setattr(activities, "NOT_UNDERSTOOD_ATTEMPTS_MAX", 2)
    monkeypatch.setattr(activities, "REFUSED_ATTEMPTS_MAX", 3)
    stage = Scripted()
    chained = ChainActivities("temporal", cast(Any, stage), TraceContext)
    async with connected(tmp_path) as client:
        chain = Chain(client, ["payment"], task_queue=QUEUE)
        async with Worker(
            client, task_queue=QUEUE, workflows=[SagaChain], activities=[chained.compensate]
        ):
            asked = CompensateAsk(requested_by="kim")
            running = {saga_id: await chain.compensate(saga_id, asked) for saga_id in STORIES}
            for saga_id, (_, outcome) in STORIES.items():
                assert outcome == (await end_of(running[saga_id])).outcome
    assert {"t-away": [], "t-strange": [Compensated()], "t-locked": []} == stage.left
