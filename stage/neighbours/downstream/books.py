"""The books of this neighbour: what it really did for each saga, kept in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stage.neighbours.shared.trace import Trace
from stage.wire.chain import ChainEvent, StageStory
from stage.wire.envelope import Envelope, format_instant
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE, Problem, WireError

SAGAS_MAX = 100_000
EVENTS_MAX = 200
"""How many events, requests to compensate and calls upstream are kept of one saga."""


class State(StrEnum):
    """How a saga stands here."""

    ACTIVE = "active"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    FAILED_TO_COMPENSATE = "failed_to_compensate"


OUTCOMES = {
    State.ACTIVE: Outcome.IN_PROGRESS,
    State.COMPLETED: Outcome.EXECUTED,
    State.COMPENSATED: Outcome.COMPENSATED,
    State.FAILED_TO_COMPENSATE: Outcome.EXECUTED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer as bytes, so that a repeat gets the same ones."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)


class Silence(StrEnum):
    """No answer, in one of two ways."""

    HANG = "hang"
    """The connection is held until the client goes away."""
    DROP = "drop"
    """The connection is broken."""


def answer_of(problem: Problem, headers: dict[str, str] | None = None) -> Answer:
    """A problem as an answer."""
    return Answer(
        status=problem.status,
        body=problem.encode(),
        content_type=CONTENT_TYPE,
        headers=headers or {},
    )


@dataclass(slots=True, kw_only=True)
class Saga:
    """One saga as this neighbour knows it."""

    saga_id: str
    trace: Trace
    opened_at: str = field(default_factory=lambda: format_instant(time.time()))
    state: State = State.ACTIVE
    payload_hash: str | None = None
    """The hash of its envelope. None: only its compensation was ever seen."""
    envelope: Envelope | None = None
    """As it came from upstream; None where only its compensation was ever seen."""
    executed: int = 0
    """How often the effect was made. More than once is a defect of the stage."""
    standing: int = 0
    """Effects that were made and not taken back."""
    requests: int = 0
    turned_away: int = 0
    compensations_turned_away: int = 0
    answered_by_gateway: int = 0
    compensations: list[dict[str, Any]] = field(default_factory=list)
    told_upstream: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    answer: Answer | None = None
    """The answer to `POST /sagas`, once there is one."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    work: asyncio.Task[None] | None = None
    """The task of this saga, independent of any request: slow work, or a failure to come."""

    def hidden(self, times: int | None) -> bool:
        """True while a gateway answers in place of this neighbour: the first `times` times."""
        if times is not None and self.answered_by_gateway >= times:
            return False
        self.answered_by_gateway += 1
        self.note("a gateway answered")
        return True

    def note(self, what: str) -> None:
        """Add one event."""
        _keep(self.events, {"what": what})

    def enter(self, state: State) -> None:
        """Change the state."""
        self.state = state
        self.note(state.value)

    def execute(self) -> None:
        """Make the effect: this is where a parcel would be booked."""
        self.executed += 1
        self.standing += 1
        self.note("executed")

    def settle(self, answer: Answer) -> None:
        """Store the answer, and wake every request that waits for it."""
        self.answer = answer
        self.answered.set()

    def compensate(self) -> None:
        """Take back what stands; this saga never runs again."""
        self.standing = 0
        self.answer = None
        self.enter(State.COMPENSATED)
        self.answered.set()

    def asked_to_compensate(self, requested_by: str, reason: str, status: int) -> None:
        """Note the requester and the status of the answer."""
        asked = {"requested_by": requested_by, "reason": reason, "status": status}
        _keep(self.compensations, asked)

    def tried_to_tell(self, reply: str) -> None:
        """Note the reply of upstream to a request to compensate."""
        _keep(self.told_upstream, {"reply": reply})

    @property
    def changed_at(self) -> str:
        """The instant of its last event."""
        at: str = self.events[-1]["at"] if self.events else self.opened_at
        return at

    def story(self, stage: str) -> StageStory:
        """The saga in the chain view. This neighbour is the tail and asks nobody further."""
        happened = [ChainEvent(at=each["at"], event=each["what"]) for each in self.events]
        asked = [
            ChainEvent(
                at=each["at"],
                event="compensation_requested",
                by=each["requested_by"],
                reason=each["reason"],
            )
            for each in self.compensations
        ]
        calls = [
            ChainEvent(at=each["at"], event="told upstream", reason=each["reply"])
            for each in self.told_upstream
        ]
        return StageStory(
            stage=stage,
            state=self.state,
            outcome=OUTCOMES[self.state],
            trace_id=self.trace.trace_id or None,
            events=sorted([*happened, *asked, *calls], key=lambda event: event.at),
        )

    def as_json(self) -> dict[str, Any]:
        """The saga as `GET /sagas` shows it."""
        return {
            "saga_id": self.saga_id,
            "state": self.state,
            "outcome": OUTCOMES[self.state],
            "trace_id": self.trace.trace_id,
            "executed": self.executed,
            "standing": self.standing,
            "requests": self.requests,
            "compensations": self.compensations,
            "told_upstream": self.told_upstream,
            "events": self.events,
            "data": {} if self.envelope is None else self.envelope.data,
        }


class Books:
    """All sagas, in the order in which they were first seen."""

    def __init__(self) -> None:
        self.began = time.time()
        """They are in memory: a saga that was sent here before may be in books that were lost."""
        self._sagas: dict[str, Saga] = {}

    def find(self, saga_id: str) -> Saga | None:
        """The saga of that id, if it was ever seen."""
        return self._sagas.get(saga_id)

    def open(self, saga_id: str, trace: Trace) -> Saga:
        """The saga of that id, opened when it is new. Raises WireError 503 when the books are full.

        They never forget one to make room: it may stand.
        """
        if saga_id not in self._sagas:
            if len(self._sagas) >= SAGAS_MAX:
                detail = f"the books hold {SAGAS_MAX} sagas"
                raise WireError(503, "Full", detail, retryable=True)
            self._sagas[saga_id] = Saga(saga_id=saga_id, trace=trace)
        return self._sagas[saga_id]

    def __iter__(self) -> Iterator[Saga]:
        return iter(self._sagas.values())


def _keep(entries: list[dict[str, Any]], entry: dict[str, Any]) -> None:
    entries.append({"at": format_instant(time.time()), **entry})
    del entries[:-EVENTS_MAX]
