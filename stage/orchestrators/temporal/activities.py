"""The activities of a workflow: at one stage, one request after another until it answers.

The outcomes of the protocol become failures of Temporal: a no is not retried, whatever is not known
is. Temporal repeats an activity under the same saga id, so a repeat is a duplicate for the stage.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, assert_never

import msgspec
from temporalio import activity
from temporalio.exceptions import ApplicationError

from stage.orchestrators.temporal.workflow import COMPENSATE, EXECUTE, HEARTBEAT_SECONDS, StageAsk
from stage.ports.neighbour import (
    CannotCompensate,
    Compensated,
    Executed,
    InProgress,
    Neighbours,
    NoInDoubt,
    NotExecuted,
    NotUnderstood,
)
from stage.ports.observer import TraceContext
from stage.ports.stage import Lost
from stage.wire.envelope import Envelope, TrailEntry, encode_envelope, format_instant
from stage.wire.replies import CompensateRequest

REQUEST_SECONDS = 20.0
BEATS = 4
"""Signs of life within the time after which an attempt is given to another worker."""
ASK_AGAIN_SECONDS = 1.0
ASK_AGAIN_SECONDS_MAX = 15.0
RETRY_SECONDS_MAX = 60.0
"""The longest pause between two attempts, as the policy of the workflow has it."""
DOUBLINGS_MAX = 6
NOT_UNDERSTOOD_ATTEMPTS_MAX = 60
"""Attempts in a row that were answered so, a minute apart: long enough to mend a route or a login,
then a person has to look. Attempts without an answer do not count: an outage may be long."""
REFUSED_ATTEMPTS_MAX = 4_320
"""Attempts since the stage's last own answer that were refused for a key or a name, or not
understood: three days, a minute apart, as a stage has patience with its neighbours. A rotated key
is put right by then, and the stages before this one are not to wait for ever. An outage meanwhile
does not clear this count: a gateway that restarts each night would never let it end."""
DENIED = "Denied"
"""The type of the failure behind such attempts."""


class ChainActivities:
    """The two activities. `name` is what the stages call this orchestrator, their upstream."""

    def __init__(
        self, name: str, neighbours: Neighbours, trace: Callable[[], TraceContext]
    ) -> None:
        self._name = name
        self._neighbours = neighbours
        self._trace = trace

    @activity.defn(name=EXECUTE)
    async def execute(self, ask: StageAsk) -> dict[str, Any]:
        """Run the saga at one stage: what it added, by name.

        Raises ApplicationError of type `NotExecuted` or `NoInDoubt`, which are final, and `Lost`.
        """
        body = encode_envelope(self._envelope(ask))
        while True:
            async with _alive():
                reply = await self._neighbours.forward(
                    ask.stage,
                    ask.saga_id,
                    body,
                    trace=self._trace(),
                    budget=None if ask.deadline is None else ask.deadline - time.time(),
                    timeout=REQUEST_SECONDS,
                )
            match reply:
                case Executed():
                    added: dict[str, Any] = msgspec.json.decode(reply.data)
                    # The first to write a member holds (protocol 3.1): an echo adds nothing.
                    return {name: added[name] for name in added if name not in ask.data}
                case InProgress():
                    await _pause(reply.retry_after)
                case NotExecuted() | NoInDoubt():
                    raise _final(reply, ask.stage)
                case Lost():
                    raise _again(reply, ask.stage)
                case _:
                    assert_never(reply)

    @activity.defn(name=COMPENSATE)
    async def compensate(self, ask: StageAsk) -> None:
        """Have one stage compensate the saga.

        Raises ApplicationError of type `CannotCompensate`, which is final, of type `NotUnderstood`,
        which is after a while, and `Lost`, which is `Denied` once patience is over.
        """
        request = CompensateRequest(
            requested_by=self._name, reason=ask.reason, first_sent_at=ask.first_sent_at
        )
        counts = _counted_before()
        while True:
            async with _alive(*counts):
                reply = await self._neighbours.compensate(
                    ask.stage, ask.saga_id, request, trace=self._trace(), timeout=REQUEST_SECONDS
                )
            match reply:
                case Compensated():
                    return
                case InProgress():
                    counts = (0, 0)
                    await _pause(reply.retry_after, *counts)
                case CannotCompensate():
                    raise _final(reply, ask.stage)
                case NotUnderstood() | Lost():
                    counts = _counted(counts, reply)
                    activity.heartbeat(*counts)
                    patient = (
                        counts[0] < NOT_UNDERSTOOD_ATTEMPTS_MAX and counts[1] < REFUSED_ATTEMPTS_MAX
                    )
                    raise _again(reply, ask.stage) if patient else _final(reply, ask.stage)
                case _:
                    assert_never(reply)

    def _envelope(self, ask: StageAsk) -> Envelope:
        """The orchestrator is last in the trail: it, and no stage, is told of a late failure."""
        now = format_instant(time.time())
        names = (*ask.passed, self._name)
        return Envelope(
            saga_id=ask.saga_id,
            data=ask.data,
            deadline=ask.deadline,
            trail=tuple(TrailEntry(stage=name, at=now) for name in names),
        )


def _counted_before() -> tuple[int, int]:
    """Attempts up to this one: in a row whose answers nobody understood, and that were refused.

    Temporal hands an attempt the details with which the one before was last alive. An earlier
    release had the first count alone.
    """
    counts = [each for each in activity.info().heartbeat_details if isinstance(each, int)]
    not_understood, refused, *_ = *counts, 0, 0
    return not_understood, refused


def _counted(counts: tuple[int, int], reply: Lost | NotUnderstood) -> tuple[int, int]:
    """The counts with one attempt more. An attempt without an answer changes the first alone."""
    not_understood, refused = counts
    if isinstance(reply, NotUnderstood):
        return not_understood + 1, refused + 1
    return 0, refused + reply.denied


@asynccontextmanager
async def _alive(*details: int) -> AsyncIterator[None]:
    """Tell Temporal meanwhile that this worker lives; a cancellation comes back by the same way."""
    beating = asyncio.create_task(_beat(*details))
    try:
        yield
    finally:
        beating.cancel()


async def _beat(*details: int) -> None:
    while True:
        activity.heartbeat(*details)
        await asyncio.sleep(HEARTBEAT_SECONDS / BEATS)


async def _pause(retry_after: float | None, *details: int) -> None:
    async with _alive(*details):
        await asyncio.sleep(pause_seconds(retry_after))


def pause_seconds(retry_after: float | None) -> float:
    """The pause before a stage that goes on with 202 is asked again, also behind one of 0 s."""
    return min(max(ASK_AGAIN_SECONDS, retry_after or 0.0), ASK_AGAIN_SECONDS_MAX)


def _final(
    reply: NotExecuted | NoInDoubt | CannotCompensate | NotUnderstood | Lost, stage: str
) -> ApplicationError:
    kind = DENIED if isinstance(reply, Lost) else type(reply).__name__
    return ApplicationError(f"{stage}: {reply.reason}", type=kind, non_retryable=True)


def _again(reply: Lost | NotUnderstood, stage: str) -> ApplicationError:
    """The failure of an attempt that is repeated, after a pause that a header makes longer only.

    Temporal takes the delay of a failure in place of that of the policy, which grows. So a
    `Retry-After` of 0 or 1, given for hours, would let a worker ask without a pause, or each
    second.
    """
    delay = None
    if reply.retry_after is not None:
        doublings = min(activity.info().attempt - 1, DOUBLINGS_MAX)
        seconds = max(ASK_AGAIN_SECONDS * 2.0**doublings, reply.retry_after)
        delay = timedelta(seconds=min(seconds, RETRY_SECONDS_MAX))
    return ApplicationError(
        f"{stage}: {reply.reason}", type=type(reply).__name__, next_retry_delay=delay
    )
