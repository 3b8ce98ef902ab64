"""The observer: makes spans and is notified of events. The core and the engine log nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

import msgspec

from stage.core.commands import AttemptKind
from stage.core.events import Event


class TraceContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A W3C trace context as it is stored with a saga; empty strings when there is none.

    `baggage` holds the members of the caller's baggage that may be passed on.
    """

    traceparent: str = ""
    tracestate: str = ""
    baggage: str = ""

    @property
    def trace_id(self) -> str:
        """32 hex digits; empty when there is no trace."""
        return self.traceparent[3:35]

    @property
    def span_id(self) -> str:
        """16 hex digits, of the span that is the parent of what begins here; empty for none."""
        return self.traceparent[36:52]


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of a step, as an observer sees it. `number` counts from 1.

    `step` is `tell_upstream` where there is no step. `peer` is the configured name of the API or
    neighbour; empty for a transaction. `parent` is what its span stands below. `links` are the
    attempts that it repeats, probes or undoes: span ids of the saga's trace (rule 23).
    """

    saga_id: str
    stage: str
    step: str
    kind: AttemptKind
    number: int
    peer: str
    parent: TraceContext
    links: tuple[str, ...] = ()


class Span(Protocol):
    """One span under way. It is ended once; a span that is never ended is never reported."""

    @property
    def span_id(self) -> str:
        """16 hex digits; empty when nothing is traced."""
        ...

    @property
    def trace_id(self) -> str:
        """32 hex digits; empty when nothing is traced."""
        ...

    @property
    def context(self) -> TraceContext:
        """The context to store, or to send in the headers of a request made under this span."""
        ...

    def current(self) -> AbstractContextManager[None]:
        """While it is entered, a span that the author starts is a child of this one.

        It is entered around the author's functions and nowhere else, and left in the context
        (of contextvars) in which it was entered.
        """
        ...

    def about(self, saga_id: str) -> None:
        """Set the saga that a request turned out to be about."""
        ...

    def link(self, traceparent: str) -> None:
        """Link to another span that led to this one, or that this one turned out to belong to."""
        ...

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """End the span. `outcome` is the event's name, such as `step_in_doubt`, or a code.

        `at` is when it ended, in seconds since the epoch, where that was earlier than now.
        """
        ...


class DroppedKind(StrEnum):
    """A thing that retention drops, or for which there is no room."""

    ANSWER = "answer"
    ROW = "row"
    ACT = "act"
    LOST_REQUEST = "lost_request"
    """A request to compensate a lost saga: a release waits for a person's word on it."""


class Observer(Protocol):
    """Every method returns at once, may be called from any thread and never raises."""

    # Many because a value for each request would cost time and say no more.
    def request(
        self,
        method: str,
        route: str,
        headers: Sequence[tuple[str, str]],
        saga_id: str,
        *,
        path: str = "",
        scheme: str = "",
        joined: bool = True,
    ) -> Span:
        """A server span for a request that came in, within the trace its headers name.

        A request that is not `joined` begins a trace of its own and links to the trace that was
        named: an unknown caller must not write into the trace of somebody else.
        """
        ...

    def client(self, method: str, url: str, *, peer: str, route: str, parent: TraceContext) -> Span:
        """A span for one request that leaves. `route` is its path without ids, where known.

        It is ended with the code of the answer, or with `refused`, `timeout` or `broken`.
        """
        ...

    def run(self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]) -> Span:
        """A span for one run of a saga, linked to the attempts it continues (rule 23).

        A link is a span id of the saga's trace, or a traceparent where it may be another trace.
        """
        ...

    def attempt(self, attempt: Attempt) -> Span:
        """A span for one attempt, linked to the attempts that it repeats, probes or undoes.

        It is ended when the end of the attempt is durable, and not before, so that none is reported
        twice.
        """
        ...

    def cut_off(self, attempt: Attempt, *, span_id: str, began: float, ended: float) -> None:
        """Report an attempt whose process was lost before it could: under the id it had.

        Called once, by the run that took the saga over. Instants in seconds since the epoch; it
        ended at `ended` at the latest. Where the id of a span cannot be set nothing is reported.
        """
        ...

    def bind(self, saga_id: str, trace: TraceContext) -> None:
        """From here on the calling task, and the tasks it starts, work for that saga.

        `saga_id` is empty where it is not known, and so is the trace.
        """
        ...

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """An exception was raised that never should be. `where` has few values.

        `saga_id` may be empty.
        """
        ...

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """So many things of that kind were dropped for their age, or were not kept."""
        ...

    def contradicted(self, saga_id: str, step: str, trace: TraceContext) -> None:
        """An API said by a webhook that a call failed, which it had said before to have landed.

        The first word stands. Called once a webhook, also for one that is repeated.
        """
        ...

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """An event is durable. Called once an event, never again on replay.

        `accepted_at` is when its saga was accepted, in seconds since the epoch.
        """
        ...
