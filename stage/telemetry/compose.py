"""Composes spans and listeners into the one observer that the engine and the edge know."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from stage.core.events import Event
from stage.ports.observer import Attempt, DroppedKind, Observer, Span, TraceContext
from stage.telemetry.log_context import bind

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Listener(Protocol):
    """Notified of attempts and events; makes no spans. Any thread, returns at once."""

    def attempted(self, attempt: Attempt, span_id: str) -> None:
        """An attempt was given its span. It is durable only once an event says so."""
        ...

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """See `ports.observer.Observer`."""
        ...


@runtime_checkable
class DefectListener(Protocol):
    """A listener that wants defects too."""

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See `ports.observer.Observer`."""
        ...


@runtime_checkable
class DroppedListener(Protocol):
    """A listener that is notified of what retention drops."""

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """See `ports.observer.Observer`."""
        ...


@runtime_checkable
class ContradictedListener(Protocol):
    """A listener that is notified of webhooks that contradict what an API said before."""

    def contradicted(self, saga_id: str, step: str, trace: TraceContext) -> None:
        """See `ports.observer.Observer`."""
        ...


@runtime_checkable
class SelectiveListener(Protocol):
    """A listener that does not want every event: it is asked once a kind."""

    def wants(self, kind: type[Event]) -> bool:
        """Whether it does anything with an event of that kind. The answer never changes."""
        ...


Happened = Callable[[str, str, Event, TraceContext, float | None], None]


class Composed:
    """ports.observer.Observer: one that makes the spans, and listeners for everything.

    A saga calls it some thirty times, so methods that would only pass a call on are not here: the
    attributes are the methods of the observer that does the work.
    """

    def __init__(self, spans: Observer, listeners: Sequence[Listener]) -> None:
        self.request = spans.request
        self.client = spans.client
        self.run = spans.run
        self.cut_off = spans.cut_off
        self.bind = bind
        self._attempt = spans.attempt
        self._listeners: tuple[Listener | Observer, ...] = (spans, *listeners)
        self._attempted = tuple(each.attempted for each in listeners)
        self._defect = tuple(each.defect for each in listeners if isinstance(each, DefectListener))
        self._dropped = [each.dropped for each in listeners if isinstance(each, DroppedListener)]
        self._contradicted = [
            each.contradicted for each in listeners if isinstance(each, ContradictedListener)
        ]
        self._happened: dict[type[Event], tuple[Happened, ...]] = {}
        """The listeners of a kind of event; filled as they come."""

    def attempt(self, attempt: Attempt) -> Span:
        """See `ports.observer.Observer`."""
        span = self._attempt(attempt)
        span_id = span.span_id
        for attempted in self._attempted:
            try:  # `suppress` would cost as much as the call
                attempted(attempt, span_id)
            except Exception:  # noqa: S112 - an observer never raises
                continue
        return span

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See `ports.observer.Observer`."""
        for defect in self._defect:
            with suppress(Exception):  # an observer never raises
                defect(where, saga_id, trace, error)

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """See `ports.observer.Observer`."""
        for dropped in self._dropped:
            with suppress(Exception):  # an observer never raises
                dropped(kind, count)

    def contradicted(self, saga_id: str, step: str, trace: TraceContext) -> None:
        """See `ports.observer.Observer`."""
        for contradicted in self._contradicted:
            with suppress(Exception):  # an observer never raises
                contradicted(saga_id, step, trace)

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """See `ports.observer.Observer`."""
        kind = type(event)
        listeners = self._happened.get(kind)
        if listeners is None:
            listeners = self._happened[kind] = self._listeners_of(kind)
        for happened in listeners:
            try:
                happened(saga_id, stage, event, trace, accepted_at)
            except Exception:  # noqa: S112 - an observer never raises: a full disk stops no saga
                continue

    def _listeners_of(self, kind: type[Event]) -> tuple[Happened, ...]:
        return tuple(
            each.happened
            for each in self._listeners
            if not isinstance(each, SelectiveListener) or each.wants(kind)
        )


def compose(spans: Observer, *listeners: Listener) -> Observer:
    """One observer out of the one that makes spans and those that only listen."""
    return Composed(spans, listeners)


def default_observer(
    tracer_provider: TracerProvider | None = None,
    *listeners: Listener,
    baggage_keys: Collection[str] = (),
    exception_text: bool = False,
) -> Observer:
    """Spans on OpenTelemetry, a log line an event, and further listeners.

    `exception_text` lets the lines of defects hold what their exceptions say.
    """
    from stage.telemetry import sdk
    from stage.telemetry.logs import LogListener
    from stage.telemetry.spans import OtelObserver

    # The length of the queue is known of our own provider alone.
    full = sdk.full if tracer_provider is None else None
    return compose(
        OtelObserver(tracer_provider, baggage_keys=baggage_keys, full=full),
        LogListener(exception_text=exception_text),
        *listeners,
    )
