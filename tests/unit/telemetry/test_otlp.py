"""The bytes sent to a collector are those of the SDK's encoder, for any span."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
)
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry.fast import otlp

AT = 1_795_400_000_000_000_000


@dataclass
class Made:
    """A provider of the SDK, and the spans that ended."""

    provider: TracerProvider
    exporter: InMemorySpanExporter

    def span(self, name: str = "step charge", **arguments: Any) -> otel.Span:
        return self.provider.get_tracer("stage", "1.0").start_span(name, start_time=AT, **arguments)

    def ended(self, **arguments: Any) -> list[ReadableSpan]:
        self.span(**arguments).end(AT + 5)
        return list(self.exporter.get_finished_spans())


def made(**limits: int) -> Made:
    provider = TracerProvider(
        resource=Resource({"service.name": "payment", "n": 1}),
        span_limits=SpanLimits(**limits),
        shutdown_on_exit=False,
    )
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Made(provider, exporter)


def context(*, remote: bool = True, tracestate: str = "", flags: int = 1) -> SpanContext:
    state = TraceState.from_header([tracestate]) if tracestate else None
    return SpanContext(2**127 + 7, 2**63 + 9, remote, TraceFlags(flags), state)


def below(parent: SpanContext) -> Context:
    return otel.set_span_in_context(NonRecordingSpan(parent), Context())


def by_sdk(spans: Sequence[ReadableSpan]) -> bytes:
    return bytes(encode_spans(spans).SerializePartialToString())


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the spans that were left to the SDK."""
    names: list[str] = []
    encode = otlp._by_sdk

    def by_sdk(span: ReadableSpan) -> bytes:
        names.append(span.name)
        return encode(span)

    monkeypatch.setattr(otlp, "_by_sdk", by_sdk)
    return names


@pytest.mark.parametrize("kind", list(SpanKind))
@pytest.mark.parametrize(
    "parent",
    [
        None,
        context(),
        context(remote=False),
        context(flags=0b11),
        context(tracestate="a=1,vendor@b=x:y,c=" + "z" * 200),
    ],
)
def test_kinds_and_parents(left: list[str], kind: SpanKind, parent: SpanContext | None) -> None:
    """A span of each kind, without a parent and below each kind of one."""
    spans = made().ended(kind=kind, context=below(parent) if parent else Context())
    assert by_sdk(spans) == otlp.encode(spans)
    assert [] == left


TEXTS = ("", "x", "ü€😀" * 60, "x" * 20_000)
NUMBERS = (
    True,
    False,
    0,
    1,
    127,
    128,
    -1,
    2**63 - 1,
    -(2**63),
    0.0,
    1.0,
    -1.5,
    1e300,
    float("inf"),
)


@pytest.mark.parametrize("value", [*TEXTS, *NUMBERS])
def test_attributes_that_are_text_or_numbers(left: list[str], value: Any) -> None:
    """Beside those that are equal to them in Python, and not for a collector."""
    spans = made().ended(attributes={"k": value, "one": 1, "yes": True, "float": 1.0, "é": "é"})
    assert by_sdk(spans) == otlp.encode(spans)
    assert [] == left


LINK = Link(context(remote=False), None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"links": [Link(context()), LINK, Link(context(tracestate="a=1", flags=0))]},
        {"name": ""},
        {"name": "n" * 300},
    ],
)
def test_links_and_names(left: list[str], arguments: dict[str, Any]) -> None:
    """Links without attributes are ours."""
    spans = made().ended(**arguments)
    assert by_sdk(spans) == otlp.encode(spans)
    assert [] == left


@pytest.mark.parametrize(
    "status",
    [
        Status(StatusCode.OK),
        Status(StatusCode.ERROR),
        Status(StatusCode.ERROR, "because " * 40),
        StatusCode.OK,
    ],
)
def test_a_status_is_encoded_as_the_sdk_encodes_it(left: list[str], status: Status) -> None:
    """With and without a description."""
    maker = made()
    span = maker.span()
    span.set_status(status)
    span.end()
    spans = maker.exporter.get_finished_spans()
    assert by_sdk(spans) == otlp.encode(spans)
    assert [] == left


def with_event(span: otel.Span) -> None:
    span.add_event("retry", {"n": 1}, AT)


def with_late_link(span: otel.Span) -> None:
    span.add_link(context(), {"why": "undo"})


def with_many(span: otel.Span) -> None:
    for n in range(5):
        span.set_attribute(f"k{n}", n)
        span.add_link(context())
        span.add_event(f"e{n}")


def with_odd_values(span: otel.Span) -> None:
    span.set_attributes(
        {"list": ["a", "b"], "none": None, "bytes": b"\xff", "map": {"a": [1, 2.0]}}
    )


def with_failure(span: otel.Span) -> None:
    span.record_exception(ValueError("no"))


@pytest.mark.parametrize(
    "add", [with_event, with_late_link, with_many, with_odd_values, with_failure]
)
def test_a_span_of_unknown_contents_is_left_to_the_sdk(
    left: list[str], add: Callable[[otel.Span], None]
) -> None:
    """The span alone: those beside it are ours, and all keep their order."""
    maker = made(max_span_attributes=3, max_links=2, max_events=2)
    maker.ended(name="before")
    span = maker.span("odd")
    add(span)
    span.end(AT + 1)
    spans = maker.ended(name="after")
    assert ["before", "odd", "after"] == [each.name for each in spans]
    assert by_sdk(spans) == otlp.encode(spans)
    assert ["odd"] == left


def test_resources_and_scopes() -> None:
    """Each resource once, each scope once within it, with their addresses of a schema."""
    first, second = made(), made()
    second.provider._resource = Resource({"service.name": "other"}, "https://schema/1")
    spans: list[ReadableSpan] = []
    for maker in (first, second):
        for scope in ("stage", "author", "stage"):
            tracer = maker.provider.get_tracer(scope, "2", "https://schema/2", {"scope": scope})
            tracer.start_span(scope).end()
        spans += maker.exporter.get_finished_spans()
    spans.append(spans[1])
    assert by_sdk(spans) == otlp.encode(spans)
    assert b"" == otlp.encode([]) == by_sdk([])


def test_scopes_that_are_equal_are_one() -> None:
    """Also where they are two objects."""
    one = made().ended()
    twin = InstrumentationScope("stage", "1.0")
    spans = [
        ReadableSpan(
            "s", one[0].context, resource=one[0].resource, attributes={}, start_time=1, end_time=2,
            instrumentation_scope=scope,
        )
        for scope in (one[0].instrumentation_scope, twin, None)
    ]  # fmt: skip
    assert by_sdk(spans) == otlp.encode(spans)


def test_half_of_a_surrogate_pair_ends_as_with_the_sdk() -> None:
    """A text that has no UTF-8 costs its attribute, and a name its batch."""
    spans = made().ended(attributes={"bad": "\ud800", "good": "x"})
    assert by_sdk(spans) == otlp.encode(spans)
    spans = made().ended(name="\ud800")
    with pytest.raises(Exception) as theirs:  # noqa: PT011 - whatever it is, ours is the same
        by_sdk(spans)
    with pytest.raises(theirs.type):
        otlp.encode(spans)


def test_an_sdk_that_sends_more_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that a later version adds is not lost: the first span of a batch shows it."""
    spans = made().ended()
    maker = made()
    maker.span("a").end()
    spans = maker.ended(name="b")
    known = otlp._known
    monkeypatch.setattr(otlp, "_known", lambda span: known(span)[:-5])  # without the flags
    assert by_sdk(spans) == otlp.encode(spans)


@given(
    st.lists(
        st.dictionaries(
            st.text(min_size=1, max_size=9),
            st.one_of(
                st.text(),
                st.booleans(),
                st.integers(-(2**63), 2**63 - 1),
                st.floats(allow_nan=False),
                st.lists(st.integers(0, 9)),
            ),
        ),
        max_size=5,
    )
)
def test_any_attributes_are_encoded_as_by_the_sdk(attributes: list[dict[str, Any]]) -> None:
    """The bytes are the SDK's."""
    maker = made()
    for each in attributes:
        maker.span(attributes=each, links=[LINK] * len(each)).end()
    spans = maker.exporter.get_finished_spans()
    assert by_sdk(spans) == otlp.encode(spans)
