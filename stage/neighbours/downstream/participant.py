"""Executes and compensates the sagas of this neighbour, by its scripts.

Work belongs to the saga and not to a request: it runs in a task of its own, and a client that
hangs up changes nothing.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Coroutine
from typing import Any

import msgspec

from stage.neighbours.downstream.books import (
    OUTCOMES,
    Answer,
    Books,
    Saga,
    Silence,
    State,
    answer_of,
)
from stage.neighbours.downstream.script import Script, ScriptName
from stage.neighbours.downstream.upstream import Upstream
from stage.neighbours.shared.scripts import Scripts
from stage.neighbours.shared.trace import Trace
from stage.wire.envelope import Envelope, payload_hash
from stage.wire.headers import CONTENT_JSON, IDEMPOTENCY_REPLAYED, LOCATION, RETRY_AFTER
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType, WireError
from stage.wire.replies import CompensateRequest, encode_executed

TURNED_AWAY_TIMES = 2
"""How often the flaky scripts answer 503 to one saga."""
RETRY_AFTER_SECONDS = 1


class Participant:
    """The neighbour: its books, its scripts and its tasks."""

    def __init__(self, name: str, scripts: Scripts[Script], upstream: Upstream) -> None:
        self.name = name
        self.scripts = scripts
        self.books = Books()
        self._upstream = upstream

    async def execute(self, envelope: Envelope, trace: Trace, *, late: bool) -> Answer | Silence:
        """Run, join or replay. `late`: the deadline was over on arrival."""
        answer = await self._execute(envelope, trace, late=late)
        script = self.scripts.script_for(envelope.saga_id)
        saga = self.books.find(envelope.saga_id)
        if script.script is ScriptName.GATEWAY and saga is not None and saga.hidden(script.times):
            return _gateway(script)
        return answer

    async def _execute(self, envelope: Envelope, trace: Trace, *, late: bool) -> Answer | Silence:
        saga = self.books.find(envelope.saga_id)
        if saga is not None:
            saga.requests += 1
            if (known := _known(saga, envelope)) is not None:
                return known
            if saga.work is not None:
                return await _join(saga)
        if saga is None:
            saga = self.books.open(envelope.saga_id, trace)
            saga.requests = 1
        if late:  # upstream goes back on it: no repeat may start it
            saga.enter(State.COMPENSATED)
            return answer_of(_problem(envelope.saga_id, trace, 504, "The deadline is over"))
        saga.payload_hash = payload_hash(envelope)
        saga.envelope = envelope
        return await self._run(saga, self.scripts.script_for(saga.saga_id))

    def compensate(self, saga_id: str, asked: CompensateRequest, trace: Trace) -> Answer:
        """Compensate once, and answer a repeat the same. An unknown saga leaves a tombstone.

        Raises WireError 503 for one that was sent before these books began: it may be lost.
        """
        saga = self.books.find(saga_id)
        if saga is None:
            self._refuse_lost(asked.first_sent_at)
            saga = self.books.open(saga_id, trace)
        answer = self._compensate(saga)
        saga.asked_to_compensate(asked.requested_by, asked.reason, answer.status)
        return answer

    async def close(self) -> None:
        """Stop all tasks. The books are in memory and are lost, as in a crash."""
        works = [saga.work for saga in self.books if saga.work is not None]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def _run(self, saga: Saga, script: Script) -> Answer | Silence:
        match script.script:
            case ScriptName.REFUSE:
                saga.enter(State.COMPENSATED)
                saga.settle(answer_of(_problem(saga.saga_id, saga.trace, 409, "Refused")))
            case ScriptName.HANG:
                saga.note("hangs")
                return Silence.HANG
            case ScriptName.FLAKY if saga.turned_away < TURNED_AWAY_TIMES:
                saga.turned_away += 1
                saga.note("turned away")
                return _not_now(saga, script.delay_seconds)
            case ScriptName.CRASH_ANSWER:
                self._complete(saga)
                saga.note("dropped the answer")
                return Silence.DROP
            case ScriptName.SLOW:
                self._start(saga, self._work_slowly(saga, script.delay_seconds))
            case ScriptName.LATE_FAILURE if script.answer == 202:
                saga.execute()
                saga.settle(_accepted(saga))
                self._start(saga, self._fail_late(saga, script.delay_seconds))
            case ScriptName.LATE_FAILURE:
                self._complete(saga)
                self._start(saga, self._fail_late(saga, script.delay_seconds))
            case _:
                self._complete(saga)
        return await _join(saga)

    def _refuse_lost(self, first_sent_at: float | None) -> None:
        """A tombstone would say that nothing stands of a saga that these books may have lost."""
        if first_sent_at is not None and first_sent_at < self.books.began:
            raise WireError(
                503,
                "Saga lost",
                "it was sent before these books began, and is not in them",
                hint="a person has to find out what stands of it here",
                outcome=Outcome.UNKNOWN,
                retryable=True,
                type=ProblemType.SAGA_LOST,
            )

    def _compensate(self, saga: Saga) -> Answer:
        scripted = self.scripts.script_for(saga.saga_id)
        script = scripted.script
        if script is ScriptName.COMPENSATE_GATEWAY and saga.hidden(scripted.times):
            return _gateway(scripted)
        if saga.state is not State.COMPENSATED:
            if (
                script is ScriptName.COMPENSATE_FLAKY
                and saga.compensations_turned_away < TURNED_AWAY_TIMES
            ):
                saga.compensations_turned_away += 1
                return _not_now(saga, RETRY_AFTER_SECONDS)
            if script is ScriptName.COMPENSATE_FAILS and saga.standing:
                saga.enter(State.FAILED_TO_COMPENSATE)
                return _cannot(saga, self.name)
            if saga.work is not None:
                saga.work.cancel()
            if saga.payload_hash is None:
                saga.note("tombstone")
            saga.compensate()
        # A refused saga has a stored answer; once compensated, it is answered 410 like the others.
        saga.answer = None
        body = {"saga_id": saga.saga_id, "outcome": Outcome.COMPENSATED}
        return Answer(status=200, body=msgspec.json.encode(body), content_type=CONTENT_JSON)

    def _start(self, saga: Saga, work: Coroutine[Any, Any, None]) -> None:
        saga.work = asyncio.create_task(work, name=f"{self.name}:{saga.saga_id}")

    def _complete(self, saga: Saga) -> None:
        """Make the effect and store the answer, without a pause between."""
        saga.execute()
        saga.enter(State.COMPLETED)
        added = {self.name: {"id": f"{self.name}-{saga.saga_id}"}}
        saga.settle(
            Answer(
                status=200,
                body=encode_executed(saga.saga_id, added),
                content_type=CONTENT_JSON,
            )
        )

    async def _work_slowly(self, saga: Saga, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._complete(saga)

    async def _fail_late(self, saga: Saga, seconds: float) -> None:
        await asyncio.sleep(seconds)
        saga.note("failed after it had answered")
        saga.compensate()
        await self._upstream.have_compensated(saga, requested_by=self.name)


def _known(saga: Saga, envelope: Envelope) -> Answer | None:
    """The answer to a duplicate that has ended or must not run, or None if it may run."""
    if saga.payload_hash not in (None, payload_hash(envelope)):
        title = "This saga id was used with another payload"
        return answer_of(_problem(saga.saga_id, saga.trace, 422, title, OUTCOMES[saga.state]))
    if saga.answer is not None and saga.state is not State.ACTIVE:
        return dataclasses.replace(saga.answer, headers={IDEMPOTENCY_REPLAYED: "true"})
    if saga.answer is None and saga.state is State.COMPENSATED:
        title = "This saga was compensated and never runs again"
        outcome = Outcome.COMPENSATED
        return answer_of(_problem(saga.saga_id, saga.trace, 410, title, outcome))
    return None


async def _join(saga: Saga) -> Answer:
    """Wait for the answer of the saga."""
    await saga.answered.wait()
    if saga.answer is not None:
        return saga.answer
    title = "Compensated while it ran"
    return answer_of(_problem(saga.saga_id, saga.trace, 409, title, Outcome.COMPENSATED))


def _problem(
    saga_id: str,
    trace: Trace,
    status: int,
    title: str,
    outcome: Outcome = Outcome.NOT_EXECUTED,
) -> Problem:
    return Problem(
        title=title, status=status, outcome=outcome, saga_id=saga_id, trace_id=trace.trace_id
    )


def _accepted(saga: Saga) -> Answer:
    body = {"saga_id": saga.saga_id, "outcome": Outcome.IN_PROGRESS}
    return Answer(
        status=202,
        body=msgspec.json.encode(body),
        content_type=CONTENT_JSON,
        headers={LOCATION: f"sagas/{saga.saga_id}", RETRY_AFTER: str(RETRY_AFTER_SECONDS)},
    )


def _gateway(script: Script) -> Answer:
    return Answer(status=script.code, body=script.body.encode(), content_type="text/html")


def _not_now(saga: Saga, seconds: float) -> Answer:
    outcome = Outcome.EXECUTED if saga.standing else Outcome.NOT_EXECUTED
    problem = Problem(
        title="Not now",
        status=503,
        outcome=outcome,
        retryable=True,
        saga_id=saga.saga_id,
        trace_id=saga.trace.trace_id,
        hint="retry under the same saga id",
    )
    return answer_of(problem, {RETRY_AFTER: str(math.ceil(seconds))})


def _cannot(saga: Saga, name: str) -> Answer:
    problem = Problem(
        title="Cannot compensate",
        status=409,
        outcome=Outcome.UNKNOWN,
        saga_id=saga.saga_id,
        trace_id=saga.trace.trace_id,
        stands=(name,),
        hint="a person has to take it back here",
    )
    return answer_of(problem)
