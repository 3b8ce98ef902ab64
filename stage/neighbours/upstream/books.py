"""The orders of this neighbour and their sagas, kept in memory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stage.neighbours.shared.trace import Trace
from stage.wire.chain import ChainEvent, StageStory
from stage.wire.envelope import Envelope, format_instant
from stage.wire.outcome import Outcome

EVENTS_MAX = 200
"""Events kept of one saga: the latest."""


class State(StrEnum):
    """How the saga stands, seen from the head of the chain."""

    ACTIVE = "active"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED_TO_COMPENSATE = "failed_to_compensate"


class OrderState(StrEnum):
    """How the order itself stands: the effect of this neighbour."""

    NONE = "none"
    PENDING = "pending"
    CONFIRMED = "confirmed"
    RELEASED = "released"


OUTCOMES = {
    State.ACTIVE: Outcome.IN_PROGRESS,
    State.COMPLETED: Outcome.EXECUTED,
    State.COMPENSATING: Outcome.IN_PROGRESS,
    State.COMPENSATED: Outcome.COMPENSATED,
    State.FAILED_TO_COMPENSATE: Outcome.UNKNOWN,
}


@dataclass(slots=True, kw_only=True)
class Saga:
    """One saga: the order that began it, and its progress."""

    saga_id: str
    trace: Trace
    opened_at: str = field(default_factory=lambda: format_instant(time.time()))
    data: dict[str, Any] | None = None
    """The context as far as it is known. None: only a compensation was ever seen (a tombstone)."""
    asked: dict[str, Any] | None = None
    """The order as it was posted."""
    envelope: Envelope | None = None
    """The envelope for the stage."""
    ends_at: float = 0.0
    """When the budget is gone, by the clock of the event loop."""
    state: State = State.ACTIVE
    order: OrderState = OrderState.NONE
    attempts: int = 0
    """How often the saga was posted to the stage."""
    reason: str = ""
    stands: tuple[str, ...] = ()
    turned_away: int = 0
    compensations: int = 0
    events: list[dict[str, str]] = field(default_factory=list)
    run: asyncio.Task[None] | None = None
    """The task of this saga, independent of any request that waits for it."""

    def note(self, what: str) -> None:
        """Add one event."""
        self.events.append({"at": format_instant(time.time()), "what": what})
        del self.events[:-EVENTS_MAX]

    def begin(self, order: dict[str, Any], envelope: Envelope, ends_at: float) -> None:
        """Make the effect of this neighbour: the order is on the books, pending."""
        self.asked = self.data = order
        self.envelope = envelope
        self.ends_at = ends_at
        self.order = OrderState.PENDING
        self.note("order pending")

    def complete(self, added: dict[str, Any]) -> None:
        """The stage and all behind it are done."""
        self.data = {**(self.data or {}), **added}
        self.order = OrderState.CONFIRMED
        self._enter(State.COMPLETED)

    def start_compensation(self, reason: str) -> None:
        """From here on the saga is undone; the stage compensates first."""
        self.reason = reason
        self._enter(State.COMPENSATING)

    def release(self) -> None:
        """Take the order back, once."""
        if self.order in (OrderState.PENDING, OrderState.CONFIRMED):
            self.order = OrderState.RELEASED
            self.note("order released")

    def compensate(self, reason: str) -> None:
        """Nothing stands behind this neighbour: take back the order, and end. It is idempotent."""
        self.release()
        if self.state is not State.COMPENSATED:
            self.reason = reason
            self.stands = ()
            self._enter(State.COMPENSATED)

    def fail_to_compensate(self, reason: str, stands: tuple[str, ...]) -> None:
        """Something stands behind this neighbour, and a person has to settle it."""
        self.reason = reason
        self.stands = stands
        self._enter(State.FAILED_TO_COMPENSATE)

    def _enter(self, state: State) -> None:
        self.state = state
        self.note(f"{state.value}: {self.reason}" if self.reason else state.value)

    @property
    def outcome(self) -> Outcome:
        """The outcome in the words of the protocol."""
        return OUTCOMES[self.state]

    @property
    def changed_at(self) -> str:
        """The instant of its last event."""
        return self.events[-1]["at"] if self.events else self.opened_at

    def story(self, stage: str) -> StageStory:
        """The saga in the chain view. This neighbour is the head and asks nobody further."""
        return StageStory(
            stage=stage,
            state=self.state,
            outcome=self.outcome,
            stands=list(self.stands),
            trace_id=self.trace.trace_id or None,
            events=[ChainEvent(at=each["at"], event=each["what"]) for each in self.events],
        )

    def as_json(self) -> dict[str, Any]:
        """The saga as `GET /sagas` shows it."""
        return {
            "saga_id": self.saga_id,
            "state": self.state,
            "outcome": self.outcome,
            "order": self.order,
            "trace_id": self.trace.trace_id,
            "attempts": self.attempts,
            "compensations": self.compensations,
            "reason": self.reason,
            "stands": self.stands,
            "data": self.data,
            "events": self.events,
        }
