"""One saga as a workflow: it says when the saga is run, and knows only its id.

Temporal replays this file from histories: it keeps no state of its own, imports temporalio and the
standard library only, and a change that leads to other commands needs `workflow.patched`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

WORKFLOW = "stage_saga"
ADVANCE = "advance_saga"
POKE = "poke"
DUE = "due"

RUN_SECONDS_MAX = 3600.0
"""How long a saga may stay in the memory of one worker; the next attempt finds it there."""
_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=0.5), maximum_interval=timedelta(seconds=10)
)


@dataclass(frozen=True)
class RunAsk:
    """A saga to run until it is over. A worker that is silent so long is taken for dead."""

    saga_id: str
    silent_seconds_max: float


@workflow.defn(name=WORKFLOW)
class SagaRun:
    """Runs a saga whenever it is due, or poked because something was asked of it."""

    def __init__(self) -> None:
        self._poked = False
        self._running = False

    @workflow.run
    async def run(self, ask: RunAsk) -> None:
        """Return when the saga needs no run: it is over, or waits for a person."""
        while True:
            self._poked, self._running = False, True
            rest = await workflow.execute_activity(
                ADVANCE,
                ask.saga_id,
                result_type=float,
                start_to_close_timeout=timedelta(seconds=RUN_SECONDS_MAX),
                heartbeat_timeout=timedelta(seconds=ask.silent_seconds_max),
                retry_policy=_RETRY,
            )
            self._running = False
            if self._poked:
                continue
            if rest < 0:
                return
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: self._poked, timeout=timedelta(seconds=rest))
            if workflow.info().is_continue_as_new_suggested():
                workflow.continue_as_new(ask)

    @workflow.signal(name=POKE)
    def poke(self) -> None:
        """Something was asked of the saga: run it at once."""
        self._poked = True

    @workflow.signal(name=DUE)
    def due(self) -> None:
        """A scan found the saga due: run it at once, unless a run is under way already.

        Nothing is lost: a dead worker's run is repeated, and what stays due is found again.
        """
        self._poked = self._poked or not self._running
