"""Start a saga at Temporal, wait for its end, have it compensated. For callers of the workflow.

A synchronous answer is the result of the workflow, not an update: a workflow takes ten updates at a
time, and one that comes behind its end starts a run that nobody wants (decision 0052).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

from stage.orchestrators.temporal.workflow import (
    SIGNAL,
    WORKFLOW,
    ChainAsk,
    ChainEnd,
    CompensateAsk,
)
from stage.wire.envelope import check_saga_id

Handle = WorkflowHandle[Any, ChainEnd]


class Chain:
    """The chain of `stages` that the workers of a task queue drive, in order."""

    def __init__(self, client: Client, stages: Sequence[str], *, task_queue: str) -> None:
        self.client = client
        """The client that is used from here on; another one may take its place."""
        self._stages = list(stages)
        self._task_queue = task_queue

    async def start(
        self, saga_id: str, data: dict[str, Any], *, deadline: float | None = None
    ) -> Handle:
        """Start a saga, or find the run of a duplicate. `deadline` is in seconds since 1970.

        An id that was used before starts nothing, also when its saga is over: the answer is that of
        its last run. Other `data` under an id counts for nothing; the stages judge it.
        """
        ask = ChainAsk(
            saga_id=check_saga_id(saga_id), stages=self._stages, data=data, deadline=deadline
        )
        try:
            return await self.client.start_workflow(
                WORKFLOW,
                ask,
                id=saga_id,
                task_queue=self._task_queue,
                result_type=ChainEnd,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
        except WorkflowAlreadyStartedError:
            return self.find(saga_id)

    async def compensate(
        self, saga_id: str, ask: CompensateAsk, *, first_sent_at: float | None = None
    ) -> Handle:
        """Have a saga compensated: one that runs, one that is over, and one that is still to come.

        A run of its own asks all stages of a saga that is over. `first_sent_at`, in seconds since
        1970, is when it was started: a stage whose database was made anew since then does not take
        it for one that was never sent. A UUIDv7 says the same.
        """
        only = ChainAsk(
            saga_id=check_saga_id(saga_id),
            stages=self._stages,
            data={},
            forward=False,
            first_sent_at=first_sent_at,
        )
        return await self.client.start_workflow(
            WORKFLOW,
            only,
            id=saga_id,
            task_queue=self._task_queue,
            result_type=ChainEnd,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal=SIGNAL,
            start_signal_args=[ask],
        )

    def find(self, saga_id: str) -> Handle:
        """The last run of a saga."""
        return self.client.get_workflow_handle(saga_id, result_type=ChainEnd)


async def end_of(handle: Handle) -> ChainEnd:
    """Wait for the end of a saga, however it ended.

    Raises WorkflowFailureError for a run that Temporal ended itself: terminated, or timed out.
    """
    try:
        return await handle.result()
    except WorkflowFailureError as error:
        cause = error.cause
        if not isinstance(cause, ApplicationError) or not cause.details:
            raise
        return ChainEnd(**cause.details[0])
