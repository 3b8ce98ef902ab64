"""Puts spans and listeners together into the one observer that the engine and the edge know."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from stage.core.commands import Activity
from stage.core.events import Event
from stage.ports.observer import Observer, Span, TraceContext
from stage.telemetry.bound import bind

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Listener(Protocol):
    """Told of attempts and events; makes no spans. Any thread, returns at once."""

    def attempted(
        self, saga_id: str, step: str, activity: Activity, attempt: int, span_id: str
    ) -> None:
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
    """A listener that wants to be told of defects too."""

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See `ports.observer.Observer`."""
        ...


class Composed:
    """ports.observer.Observer: the spans of one, and listeners told of everything."""

    def __init__(self, spans: Observer, listeners: Sequence[Listener]) -> None:
        self._spans = spans
        self._listeners = tuple(listeners)

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
        """See `ports.observer.Observer`."""
        return self._spans.request(
            method, route, headers, saga_id, path=path, scheme=scheme, joined=joined
        )

    def client(self, method: str, url: str, *, peer: str, route: str, parent: TraceContext) -> Span:
        """See `ports.observer.Observer`."""
        return self._spans.client(method, url, peer=peer, route=route, parent=parent)

    def run(self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]) -> Span:
        """See `ports.observer.Observer`."""
        return self._spans.run(saga_id, stage, parent, links)

    def attempt(
        self,
        saga_id: str,
        stage: str,
        step: str,
        activity: Activity,
        attempt: int,
        *,
        peer: str,
        parent: TraceContext,
        links: Sequence[str],
    ) -> Span:
        """See `ports.observer.Observer`."""
        span = self._spans.attempt(
            saga_id, stage, step, activity, attempt, peer=peer, parent=parent, links=links
        )
        for listener in self._listeners:
            with suppress(Exception):  # an observer never raises
                listener.attempted(saga_id, step, activity, attempt, span.span_id)
        return span

    def cut_off(
        self,
        saga_id: str,
        stage: str,
        step: str,
        activity: Activity,
        attempt: int,
        *,
        peer: str,
        parent: TraceContext,
        links: Sequence[str],
        span_id: str,
        began: float,
        ended: float,
    ) -> None:
        """See `ports.observer.Observer`."""
        self._spans.cut_off(
            saga_id,
            stage,
            step,
            activity,
            attempt,
            peer=peer,
            parent=parent,
            links=links,
            span_id=span_id,
            began=began,
            ended=ended,
        )

    def bind(self, saga_id: str, trace: TraceContext) -> None:
        """See `ports.observer.Observer`."""
        bind(saga_id, trace)

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See `ports.observer.Observer`."""
        for listener in self._listeners:
            if isinstance(listener, DefectListener):
                with suppress(Exception):  # an observer never raises
                    listener.defect(where, saga_id, trace, error)

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """See `ports.observer.Observer`."""
        self._spans.happened(saga_id, stage, event, trace, accepted_at)
        for listener in self._listeners:
            with suppress(Exception):  # an observer never raises: a full disk stops no saga
                listener.happened(saga_id, stage, event, trace, accepted_at)


def compose(spans: Observer, *listeners: Listener) -> Observer:
    """One observer out of the one that makes spans and those who only listen."""
    return Composed(spans, listeners)


def default_observer(
    tracer_provider: TracerProvider | None = None,
    *listeners: Listener,
    baggage_keys: Collection[str] = (),
) -> Observer:
    """Spans on OpenTelemetry, a log line an event, and more who listen."""
    from stage.telemetry import sdk
    from stage.telemetry.logs import LogListener
    from stage.telemetry.spans import OtelObserver

    # How much waits for a collector is known of our own provider alone.
    full = sdk.full if tracer_provider is None else None
    return compose(
        OtelObserver(tracer_provider, baggage_keys=baggage_keys, full=full),
        LogListener(),
        *listeners,
    )
