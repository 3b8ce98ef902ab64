"""Fast spans: a processor gets what it gets of the SDK's, and otherwise the SDK makes them."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
)

from stage.ports.observer import Span, TraceContext
from stage.telemetry import span_context
from stage.telemetry.fast import spans as fast_spans
from stage.telemetry.fast.spans import FastProvider, FastSpan
from stage.telemetry.id_generator import StageIdGenerator
from stage.telemetry.spans import OtelObserver, RecordedSpan
from tests.unit.telemetry.given import an_attempt

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
STATE = [
    ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-03"),
    ("tracestate", "a=1,b=2"),
    ("baggage", "tenant=acme,other=1"),
]
LATE = 4e9
"""An instant that no clock shows yet, in seconds since the epoch."""
UNSAMPLED = [("traceparent", f"00-{TRACE}-00f067aa0ba902b7-00")]
RESOURCE = Resource({"service.name": "payment"})


class Counted(IdGenerator):
    """Ids that are the same in each run."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._ids)

    def generate_trace_id(self) -> int:
        return next(self._ids)

    def is_trace_id_random(self) -> bool:
        return True


class OfOldVersions(IdGenerator):
    """Does not say whether its ids are random."""

    def generate_span_id(self) -> int:
        return 1

    def generate_trace_id(self) -> int:
        return 1

    def __getattribute__(self, name: str) -> Any:
        if name == "is_trace_id_random":
            raise AttributeError(name)
        return super().__getattribute__(name)


def ended(
    make: Callable[..., TracerProvider], story: Callable[[OtelObserver], list[Span]]
) -> tuple[list[Any], list[TraceContext]]:
    """The spans that a processor got, as the SDK writes them, and the contexts passed on."""
    exporter = InMemorySpanExporter()
    provider = make(resource=RESOURCE, shutdown_on_exit=False, id_generator=Counted())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    made = story(OtelObserver(provider, baggage_keys=("tenant",)))
    return [written(span) for span in exporter.get_finished_spans()], [
        each.context for each in made
    ]


def written(span: ReadableSpan) -> Any:
    assert span.start_time is not None and span.end_time is not None
    assert span.end_time >= span.start_time > 0
    # Instants differ from run to run, except the one that is given.
    at = span.end_time if span.end_time >= LATE * 1e9 else span.end_time == span.start_time
    shown = json.loads(span.to_json())
    assert shown.pop("start_time") and shown.pop("end_time")
    for link in shown["links"]:
        link["attributes"] = link["attributes"] or {}  # both are sent as none
    dropped = span.dropped_attributes, span.dropped_events, span.dropped_links
    parent = span.parent
    return shown, at, dropped, span.instrumentation_scope, parent, parent and parent.is_remote


def a_saga(observer: OtelObserver) -> list[Span]:
    server = observer.request("POST", "/sagas", STATE, "s-1", path="/sagas", scheme="http")
    run = observer.run("s-1", "payment", server.context, ["b" * 16, f"00-{'c' * 32}-{'d' * 16}-01"])
    made = [server, run]
    for outcome, error, at in (
        ("step_succeeded", "", None),
        ("step_succeeded", "", LATE),
        ("step_in_doubt", "timeout " * 99, 1.0),  # a clock that was set back
    ):
        attempt = observer.attempt(an_attempt(parent=run.context, links=["b" * 16]))
        made.append(attempt)
        for code in ("200", "404", "timeout"):
            client = observer.client(
                "POST", "http://psp:81/x?y=1", peer="psp", route="", parent=attempt.context
            )
            client.end(code, error)
            made.append(client)
        attempt.end(outcome, error, at=at)
    run.link(f"00-{'e' * 32}-{'f' * 16}-00")
    run.end("parked")
    server.about("s-2")
    server.end("500")
    server.end("200")
    server.about("s-3")
    server.link(f"00-{'e' * 32}-{'f' * 16}-00")
    return made


def without_a_trace(observer: OtelObserver) -> list[Span]:
    span = observer.request("POST", "/sagas", [], "s-1")
    span.end("200")
    return [span]


def unsampled(observer: OtelObserver) -> list[Span]:
    span = observer.request("POST", "/sagas", UNSAMPLED, "s-1")
    assert span.span_id and span.context.traceparent.endswith("-00")
    span.end("200")
    return [span]


@pytest.mark.parametrize("story", [a_saga, without_a_trace, unsampled])
def test_a_processor_gets_the_same_as_from_spans_of_the_sdk(
    story: Callable[[OtelObserver], list[Span]],
) -> None:
    """Ids, parents, flags, links, attributes in their order, status, scope, resource, instants.

    The contexts that are passed on are the same too.
    """
    assert ended(TracerProvider, story) == ended(FastProvider, story)


def made(provider: TracerProvider) -> Span:
    span = OtelObserver(provider).request("POST", "/sagas", STATE, "s-1")
    span.end("200")
    return span


def provided() -> FastProvider:
    provider = FastProvider(shutdown_on_exit=False, id_generator=StageIdGenerator())
    provider.add_span_processor(SpanProcessor())
    return provider


def test_spans_are_fast_while_nobody_sees_a_difference() -> None:
    """A processor of the host changes spans when they start: it gets those of the SDK."""
    provider = provided()
    assert isinstance(made(provider), FastSpan)
    provider.add_span_processor(SpanProcessor())
    assert not isinstance(made(provider), FastSpan)


@pytest.mark.parametrize(
    "variable", ["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"]
)
def test_limits_that_are_set_are_those_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """It knows how each of them is meant."""
    monkeypatch.setenv(variable, "3")
    assert not isinstance(made(provided()), FastSpan)


def test_the_sdk_may_count_its_own_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast ones would be missing in its figures."""
    monkeypatch.setenv(fast_spans.INTERNAL_METRICS_VARIABLE, "true")
    assert not isinstance(made(provided()), FastSpan)


@pytest.mark.parametrize(
    "arguments",
    [
        {"span_limits": SpanLimits(max_span_attributes=1)},
        {"active_span_processor": SynchronousMultiSpanProcessor()},  # type: ignore[no-untyped-call]
        {"id_generator": OfOldVersions()},
    ],
)
def test_arguments_that_only_the_sdk_keeps_are_left_to_it(arguments: dict[str, Any]) -> None:
    """And so are ids that do not say whether they are random, as before 1.42 of the SDK."""
    provider = FastProvider(shutdown_on_exit=False, **arguments)
    provider.add_span_processor(SpanProcessor())
    assert not isinstance(made(provider), FastSpan)


def test_our_own_entry_point_makes_fast_spans() -> None:
    """`sdk.setup` says so, in a process of its own: a provider is set once."""
    code = (
        "from stage.telemetry import sdk\n"
        "from stage.telemetry.spans import OtelObserver\n"
        "assert sdk.setup('payment', 'http://127.0.0.1:1')\n"
        "span = OtelObserver().request('POST', '/sagas', [], 's-1')\n"
        "print(type(span).__name__)\n"
        "sdk.shutdown(0.0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FastSpan" == ran.stdout.strip()


def test_a_disabled_sdk_makes_no_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_SDK_DISABLED holds here too."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    span = OtelObserver(provided()).request("POST", "/sagas", STATE, "s-1")
    assert "" == span.span_id


@pytest.mark.parametrize("headers", [STATE, UNSAMPLED, []])
@pytest.mark.parametrize("sampler", [DEFAULT_ON, DEFAULT_OFF, ParentBasedTraceIdRatio(0.0)])
def test_a_sampler_that_keeps_to_the_parent_decides(
    sampler: Sampler, headers: list[tuple[str, str]]
) -> None:
    """A dropped span is passed on under an id, unsampled, and reaches no processor."""

    def seen(make: Callable[..., TracerProvider]) -> tuple[str, int]:
        exporter = InMemorySpanExporter()
        provider = make(sampler=sampler, shutdown_on_exit=False, id_generator=Counted())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        span = OtelObserver(provider).request("POST", "/sagas", headers, "s-1")
        assert isinstance(span, FastSpan) is (make is FastProvider)
        span.about("s-2")
        span.end("200")
        return span.context.traceparent, len(exporter.get_finished_spans())

    assert seen(TracerProvider) == seen(FastProvider)


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_OFF, ALWAYS_OFF)])
def test_a_sampler_that_looks_at_more_is_asked_by_the_sdk(sampler: Sampler) -> None:
    """It may add attributes, or change the tracestate."""
    provider = FastProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())
    assert isinstance(made(provider), RecordedSpan)


def test_an_author_has_the_tracer_of_the_sdk() -> None:
    """A span of an author may have events."""
    with provided().get_tracer("author").start_as_current_span("a") as span:
        span.add_event("seen")
    assert isinstance(span, ReadableSpan) and 1 == len(span.events)


def test_links_that_come_later_have_a_limit() -> None:
    """A request that is repeated a thousand times does not make a span of a thousand links."""
    exporter = InMemorySpanExporter()
    provider = FastProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    span = OtelObserver(provider).run("s-1", "p", TraceContext(traceparent=STATE[0][1]), [])
    for number in range(1, 1_000):
        span.link(f"00-{TRACE}-{number:016x}-01")
    span.end("completed")
    (one,) = exporter.get_finished_spans()
    assert span_context.LINKS_MAX == len(one.links) and 999 == one.links[-1].context.span_id
