"""The way into a simulated stage: requests as `inbound` reads them, without the sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import unquote

import msgspec

from stage.core.errors import CommitInDoubt, JournalMismatch, StoreUnavailable
from stage.core.questions import past_pivot
from stage.core.states import SagaState
from stage.core.steps import Plan
from stage.inbound.views import OUTCOMES
from stage.ports.clock import Clock
from stage.ports.engine import Busy, Engine, Unsettled
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer
from stage.simulation.books import Books
from stage.wire import headers as h
from stage.wire.envelope import Envelope, check_saga_id, decode_envelope
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, WireError
from stage.wire.replies import decode_compensate

Headers = Sequence[tuple[str, str]]
WAIT_SECONDS_MAX = 25.0
COMPENSATE_WAIT_SECONDS = 10.0


class SimulatedEdge:
    """Answers for one engine, as `inbound.execute` and `inbound.compensate` do."""

    def __init__(self, stage: str, plan: Plan, engine: Engine, clock: Clock, books: Books) -> None:
        self._stage = stage
        self._plan = plan
        self._engine = engine
        self._clock = clock
        self._books = books

    async def answer(self, method: str, path: str, headers: Headers, body: bytes) -> Answer:
        """Answer one request. Never raises for what the caller sent or the database does."""
        saga_id, asked_at = "", asyncio.get_running_loop().time()
        try:
            if path == "/sagas":
                envelope = decode_envelope(body)
                saga_id = envelope.saga_id
                answer = await self._execute(headers, envelope)
            elif method == "GET":
                saga_id = unquote(path.removeprefix("/sagas/"))
                return await self._look(saga_id)
            else:
                saga_id = unquote(path.removeprefix("/sagas/").removesuffix("/compensate"))
                answer = await self._compensate(saga_id, headers, body)
        except WireError as error:
            answer = _problem(error.problem(saga_id=saga_id or None))
        except (Unsettled, CommitInDoubt) as error:
            answer = _problem(_unknown("Not known", str(error), saga_id))
        except (Busy, StoreUnavailable) as error:
            answer = _problem(_not_now(error, saga_id))
        except JournalMismatch as error:
            answer = _problem(_unknown("Defect", str(error), saga_id))
        except Exception as error:
            self._books.violate("defect", saga_id, f"{self._stage} raised {error!r}")
            answer = _problem(_unknown("Defect", repr(error), saga_id))
        self._note(path, saga_id, answer, asked_at)
        return answer

    def _note(self, path: str, saga_id: str, answer: Answer, asked_at: float) -> None:
        if path == "/sagas":
            outcome = ""
            if answer.status >= 400:
                outcome = msgspec.json.decode(answer.body)["outcome"]
            replayed = (h.IDEMPOTENCY_REPLAYED, "true") in answer.headers
            note = f"answers POST /sagas: {answer.status} {outcome}"
            self._books.tell(saga_id, self._stage, note + (" replayed" if replayed else ""))
            self._books.answered(
                self._stage, saga_id, answer.status, answer.body, outcome, asked_at=asked_at
            )
        else:
            self._books.tell(saga_id, self._stage, f"answers compensate: {answer.status}")
            if answer.status == 200:
                self._books.said_undone(self._stage, saga_id)

    async def _execute(self, headers: Headers, envelope: Envelope) -> Answer:
        _check_content(headers)
        h.check_idempotency_key(_all(headers, h.IDEMPOTENCY_KEY), envelope.saga_id)
        deadline = envelope.deadline
        budget = h.parse_budget_ms(_all(headers, h.SAGA_BUDGET_MS))
        if budget is not None:
            by_budget = self._clock.now() + budget
            deadline = by_budget if deadline is None else min(deadline, by_budget)
        prefer = h.parse_prefer(_all(headers, h.PREFER))
        wait = WAIT_SECONDS_MAX if prefer.wait is None else prefer.wait
        reply = await self._engine.accept(
            envelope,
            trace=TraceContext(),
            deadline=deadline,
            respond_async=prefer.respond_async,
            wait_seconds=min(wait, WAIT_SECONDS_MAX),
        )
        if reply is None:
            return _accepted(envelope.saga_id)
        told = [(h.SAGA_ID, envelope.saga_id)]
        if reply.replayed:
            told.append((h.IDEMPOTENCY_REPLAYED, "true"))
        return Answer(status=reply.status, headers=tuple(told), body=reply.body)

    async def _look(self, saga_id: str) -> Answer:
        snapshot = await self._engine.look(saga_id)
        if snapshot is None:
            told = Problem(status=404, title="Never seen", outcome=Outcome.NOT_EXECUTED)
            return _problem(told)
        shown = {"saga_id": saga_id, "outcome": OUTCOMES[snapshot.saga.state]}
        return Answer(status=200, body=msgspec.json.encode(shown))

    async def _compensate(self, saga_id: str, headers: Headers, body: bytes) -> Answer:
        check_saga_id(saga_id)
        if body:
            _check_content(headers)
        asked = decode_compensate(body)
        snapshot = await self._engine.compensate(
            saga_id,
            requested_by=asked.requested_by,
            reason=asked.reason,
            trace=TraceContext(),
            wait_seconds=COMPENSATE_WAIT_SECONDS,
        )
        saga = snapshot.saga
        if saga.forgotten and snapshot.row.answer_status is not None:
            return Answer(status=410, body=snapshot.row.answer_body)
        if saga.state is SagaState.COMPENSATED:
            done = {"saga_id": saga_id, "outcome": Outcome.COMPENSATED}
            return Answer(status=200, body=msgspec.json.encode(done))
        if saga.state is SagaState.FAILED_TO_COMPENSATE or past_pivot(self._plan, saga):
            failed = saga.state is SagaState.FAILED_TO_COMPENSATE
            stands = saga.stands if failed else tuple(sorted(saga.steps))
            return _problem(
                Problem(
                    status=409,
                    title="Cannot compensate",
                    outcome=Outcome.UNKNOWN if failed else Outcome.EXECUTED,
                    saga_id=saga_id,
                    stands=stands,
                )
            )
        return _accepted(saga_id)


def _accepted(saga_id: str) -> Answer:
    body = msgspec.json.encode({"saga_id": saga_id, "outcome": Outcome.IN_PROGRESS})
    return Answer(status=202, headers=((h.RETRY_AFTER, "1"), (h.SAGA_ID, saga_id)), body=body)


def _problem(problem: Problem) -> Answer:
    headers = ((h.RETRY_AFTER, "1"),) if problem.status in (429, 503) else ()
    return Answer(status=problem.status, headers=headers, body=problem.encode())


def _not_now(error: Exception, saga_id: str) -> Problem:
    return Problem(
        status=503,
        title="Not now",
        detail=str(error),
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
        saga_id=saga_id or None,
    )


def _unknown(title: str, detail: str, saga_id: str) -> Problem:
    return Problem(
        status=500,
        title=title,
        detail=detail,
        outcome=Outcome.UNKNOWN,
        retryable=True,
        saga_id=saga_id or None,
    )


def _check_content(headers: Headers) -> None:
    h.check_content_type(next(iter(_all(headers, "Content-Type")), None))


def _all(headers: Headers, name: str) -> list[str]:
    return [value for told, value in headers if told.lower() == name.lower()]
