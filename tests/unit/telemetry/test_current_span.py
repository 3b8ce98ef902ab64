"""The current span: the ids of ours while a function of the author runs, and nothing behind it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from opentelemetry import baggage
from opentelemetry import trace as otel
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from stage.ports.observer import Span, TraceContext
from stage.telemetry.fast.spans import FastProvider
from stage.telemetry.null import NullObserver, PassthroughSpan
from stage.telemetry.spans import OtelObserver
from tests.unit.telemetry.given import an_attempt

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = TraceContext(traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="a=1")


def by_the_sdk() -> Span:
    return OtelObserver(TracerProvider(shutdown_on_exit=False)).attempt(an_attempt(parent=PARENT))


def by_the_fast_provider() -> Span:
    provider = FastProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())
    return OtelObserver(provider).attempt(an_attempt(parent=PARENT))


def while_the_queue_is_full() -> Span:
    provider = TracerProvider(shutdown_on_exit=False)
    return OtelObserver(provider, full=lambda: True).attempt(an_attempt(parent=PARENT))


@pytest.mark.parametrize("make", [by_the_sdk, by_the_fast_provider, while_the_queue_is_full])
def test_the_current_span_has_the_ids_of_ours(make: Callable[[], Span]) -> None:
    """Trace, span, flags and tracestate; the one that was current before is so again."""
    span = make()
    before = TracerProvider(shutdown_on_exit=False).get_tracer("host").start_span("of the host")
    with otel.use_span(before):
        with suppress(OSError), span.current():
            seen = otel.get_current_span()
            raise OSError("whatever a function raises")
        assert before is otel.get_current_span()
    ids = seen.get_span_context()
    assert not seen.is_recording()
    assert (TRACE, span.span_id or SPAN) == (f"{ids.trace_id:032x}", f"{ids.span_id:016x}")
    assert ids.trace_flags.sampled and "a=1" == ids.trace_state.to_header()


@pytest.mark.parametrize("make", [by_the_sdk, by_the_fast_provider])
def test_a_span_of_the_author_has_its_parent_in_this_process(make: Callable[[], Span]) -> None:
    """Beside one that came with a request, of which a collector is told that it is remote."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("author")
    span = make()
    with span.current(), tracer.start_as_current_span("score the order") as mine:
        pass
    assert isinstance(mine, ReadableSpan) and mine.parent is not None
    assert span.span_id == f"{mine.parent.span_id:016x}" and not mine.parent.is_remote


def test_nothing_of_the_request_that_happened_to_bring_the_saga_is_there() -> None:
    """A recovered saga has no such request, and its functions are the same ones."""
    token = attach(baggage.set_baggage("tenant", "of the host"))
    try:
        with by_the_sdk().current():
            assert {} == baggage.get_all()
        assert {"tenant": "of the host"} == baggage.get_all()
    finally:
        detach(token)


@pytest.mark.parametrize("make", [NullObserver, OtelObserver])
def test_where_nothing_is_traced_nothing_becomes_current(
    make: Callable[[], NullObserver | OtelObserver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it cost anything: the context manager is one and the same for all."""
    monkeypatch.setattr("stage.telemetry.spans.CurrentSpan", None)  # is not even made
    span = make().attempt(an_attempt(parent=PARENT))
    assert type(span) is PassthroughSpan
    assert span.current() is PassthroughSpan(PARENT).current()
    before = otel.get_current_span()
    with span.current():
        assert before is otel.get_current_span()
