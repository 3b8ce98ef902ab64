"""One saga over a chain of stages, as a workflow: forward in order, compensation in reverse.

Temporal replays this file from histories: it keeps no state of its own, imports temporalio and the
standard library only, and a change that leads to other commands needs `workflow.patched`.

A saga never needs continue-as-new. A wait is inside an activity, and Temporal's repeats of an
activity leave no events, so a history has some ten events a stage, however long a stage is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

WORKFLOW = "saga_chain"
EXECUTE = "execute_stage"
COMPENSATE = "compensate_stage"
SIGNAL = "compensate"
QUERY = "standing"

EXECUTED = "executed"
COMPENSATED = "compensated"
FAILED_TO_COMPENSATE = "failed_to_compensate"
"""The types of the failures with which a workflow ends, beside its result `executed`."""

ATTEMPT_SECONDS = 3600.0
"""How long one attempt of an activity may stay with a stage that goes on answering 202."""
HEARTBEAT_SECONDS = 10.0
"""After so long without a sign of its worker an attempt is given to another one."""
BUDGET_SECONDS = 3600.0
"""The way forward of a saga without a deadline."""
ASKS_ON = "asks-on-when-cancelled"
"""The mark of runs that were cancelled on their way back under a release that goes on asking."""
TURNS = "turns-between-stages"
"""The mark of runs that were asked to compensate together with an answer, and ran no stage more."""
_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=60))


@dataclass(frozen=True)
class ChainAsk:
    """A saga to run over `stages`, in order. `deadline` is in seconds since 1970.

    `forward` is False for a saga that is only to be compensated: its run is over, or never began.
    `first_sent_at`, in the same seconds, is when that run began, where the caller knows it.
    """

    saga_id: str
    stages: list[str]
    data: dict[str, Any]
    deadline: float | None = None
    forward: bool = True
    first_sent_at: float | None = None


@dataclass(frozen=True)
class CompensateAsk:
    """A request to compensate; `own_word` says that nothing stands at the one that asks."""

    requested_by: str
    reason: str = ""
    own_word: bool = False


@dataclass(frozen=True)
class StageAsk:
    """The task of an activity at one stage.

    `first_sent_at`, of one to compensate, shows a stage that its database has lost the saga.
    """

    saga_id: str
    stage: str
    data: dict[str, Any] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    deadline: float | None = None
    reason: str = ""
    first_sent_at: float | None = None


@dataclass(frozen=True)
class ChainEnd:
    """How a saga ended: what the stages added, by name, and the stages where something stands."""

    outcome: str
    data: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    stands: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Standing:
    """Where a saga is now. `reached` are the stages that were asked to run it."""

    state: str
    reached: list[str]
    stands: list[str]


@workflow.defn(name=WORKFLOW)
class SagaChain:
    """Runs a saga to its end. The workflow id is the saga id, so that a repeat is a duplicate."""

    @workflow.init
    def __init__(self, ask: ChainAsk) -> None:
        self._ask = ask
        self._state = "active"
        self._reached: list[str] = [] if ask.forward else list(ask.stages)
        self._added: dict[str, Any] = {}
        self._asked: CompensateAsk | None = None
        self._cleared: set[str] = set()
        self._stands: list[str] = []

    @workflow.run
    async def run(self, ask: ChainAsk) -> ChainEnd:
        """Return what was added, or fail with the type `compensated` or `failed_to_compensate`."""
        reason = await self._go_forward() if ask.forward else self._reason()
        if reason is None:
            return ChainEnd(outcome=EXECUTED, data=self._added)
        self._state = "compensating"
        await _to_its_end(self._go_back(reason))
        self._state = FAILED_TO_COMPENSATE if self._stands else COMPENSATED
        end = ChainEnd(outcome=self._state, reason=reason, stands=self._stands)
        raise ApplicationError(reason, end, type=self._state, non_retryable=True)

    @workflow.signal(name=SIGNAL)
    def compensate(self, ask: CompensateAsk) -> None:
        """Turn the saga round, as an upstream or a stage that fails late asks."""
        self._asked = self._asked or ask
        if ask.own_word:
            self._cleared.add(ask.requested_by)

    @workflow.query(name=QUERY)
    def standing(self) -> Standing:
        """Where it is now."""
        return Standing(state=self._state, reached=self._reached, stands=self._stands)

    async def _go_forward(self) -> str | None:
        """Run the stages in order; the reason for which it turned round, or None."""
        forward = asyncio.ensure_future(self._forward())
        try:
            await workflow.wait_condition(lambda: forward.done() or self._asked is not None)
        except asyncio.CancelledError:
            reason = "the workflow was cancelled"
        else:
            reason = self._reason() if self._asked is not None else ""
        if not forward.done():
            forward.cancel()
        try:
            await forward
        except (ActivityError, asyncio.CancelledError) as error:
            return reason or _said(error)
        return reason or None

    async def _forward(self) -> None:
        ask = self._ask
        passed: list[str] = []
        for stage in ask.stages:
            # An answer that comes together with the request is applied before the cancellation.
            if self._asked is not None and workflow.patched(TURNS):
                return
            left = _left(ask.deadline)
            self._reached.append(stage)  # before it is asked: from here on it may stand there
            self._added.update(
                await workflow.execute_activity(
                    EXECUTE,
                    StageAsk(
                        saga_id=ask.saga_id,
                        stage=stage,
                        data={**ask.data, **self._added},
                        passed=list(passed),
                        deadline=ask.deadline,
                    ),
                    result_type=dict[str, Any],
                    start_to_close_timeout=timedelta(seconds=ATTEMPT_SECONDS),
                    schedule_to_close_timeout=timedelta(seconds=left),
                    heartbeat_timeout=timedelta(seconds=HEARTBEAT_SECONDS),
                    retry_policy=_RETRY,
                    summary=stage,
                )
            )
            passed.append(stage)

    async def _go_back(self, reason: str) -> None:
        for stage in reversed(self._reached):
            await self._compensate(stage, reason)

    async def _compensate(self, stage: str, reason: str) -> None:
        """Ask until it is answered: no time-out cuts it, and no cancellation of the workflow."""
        if stage in self._cleared:
            return
        try:
            await workflow.execute_activity(
                COMPENSATE,
                StageAsk(
                    saga_id=self._ask.saga_id,
                    stage=stage,
                    reason=reason,
                    first_sent_at=self._first_sent_at(),
                ),
                start_to_close_timeout=timedelta(seconds=ATTEMPT_SECONDS),
                heartbeat_timeout=timedelta(seconds=HEARTBEAT_SECONDS),
                retry_policy=_RETRY,
                summary=stage,
            )
        except ActivityError:
            if stage not in self._cleared:  # its own word may have come meanwhile
                self._stands.append(stage)

    def _first_sent_at(self) -> float | None:
        """When the saga was first sent to a stage, or earlier.

        The beginning of a run that only compensates would be later, and prove that nothing is lost.
        """
        if self._ask.first_sent_at is not None or not self._ask.forward:
            return self._ask.first_sent_at
        return workflow.info().workflow_start_time.timestamp()

    def _reason(self) -> str:
        asked = self._asked
        if asked is None:
            return "it was asked to compensate"
        return asked.reason or f"{asked.requested_by} asked to compensate"


async def _to_its_end(way_back: Coroutine[Any, Any, None]) -> None:
    """Go the way back to its end. A cancelled workflow compensates, also where it does so already.

    A cancellation of the workflow reaches the task that awaits this, and not the way back. An
    eviction ends both: Temporal cancels each task, and `workflow.patched` cannot be called then.
    """
    going = asyncio.ensure_future(way_back)
    while not going.done():
        try:
            await asyncio.shield(going)
        except asyncio.CancelledError:
            if not workflow.patched(ASKS_ON):
                going.cancel()  # as it went in this history: the stage that was asked is given up
    going.result()


def _left(deadline: float | None) -> float:
    """Seconds for the way forward; never none, for a stage itself judges what came too late."""
    if deadline is None:
        return BUDGET_SECONDS
    return max(1.0, deadline - workflow.time())


def _said(error: BaseException) -> str:
    if is_cancelled_exception(error):
        return "the workflow was cancelled"
    cause = error.__cause__
    return str(cause.message) if isinstance(cause, ApplicationError) else str(cause or error)
