"""Fast spans are encoded from their parts, to the bytes of the SDK for the spans that they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from stage.core.commands import AttemptKind
from stage.ports.observer import Attempt, Span, TraceContext
from stage.telemetry.fast import otlp
from stage.telemetry.fast.spans import FastProvider, FastSpan
from stage.telemetry.spans import OtelObserver
from tests.unit.telemetry.test_fast_spans import a_saga, unsampled, without_a_trace

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Kept(SpanProcessor):
    """Keeps the spans that end, fast ones as they are."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan | FastSpan] = []

    def take(self, span: FastSpan) -> None:
        self.spans.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Traced:
    """An observer whose spans are kept."""

    def __init__(self) -> None:
        self.kept = Kept()
        self.provider = FastProvider(
            resource=Resource({"service.name": "payment"}), shutdown_on_exit=False
        )
        self.provider.add_span_processor(self.kept)
        self.observer = OtelObserver(self.provider, baggage_keys=("tenant",))


def by_sdk(spans: Sequence[ReadableSpan | FastSpan]) -> bytes:
    readable = [span.readable() if isinstance(span, FastSpan) else span for span in spans]
    return bytes(encode_spans(readable).SerializePartialToString())


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Spans that were left to the SDK, by the name of their saga."""
    names: list[str] = []
    encode = otlp._by_sdk

    def by_sdk(span: ReadableSpan | FastSpan) -> bytes:
        names.append(span.saga_id if isinstance(span, FastSpan) else "")
        return encode(span)

    monkeypatch.setattr(otlp, "_by_sdk", by_sdk)
    return names


@pytest.mark.parametrize("story", [a_saga, without_a_trace, unsampled])
def test_the_bytes_are_those_of_the_sdk(
    left: list[str], story: Callable[[OtelObserver], list[Span]]
) -> None:
    """Of every type of span, with and without a parent, a tracestate, links, a reason."""
    traced = Traced()
    story(traced.observer)
    spans = traced.kept.spans
    assert all(type(span) is FastSpan for span in spans)
    assert by_sdk(spans) == otlp.encode(spans)
    assert [] == left


def test_spans_of_the_author_come_between_them(left: list[str]) -> None:
    """Each scope has its own in their order."""
    traced = Traced()
    tracer = traced.provider.get_tracer("author")
    for number in range(3):
        traced.observer.request("GET", "/sagas/{saga_id}", [], f"s-{number}").end("404")
        tracer.start_span(f"mine {number}", attributes={"n": number}).end()
    assert by_sdk(traced.kept.spans) == otlp.encode(traced.kept.spans)
    assert [] == left


def test_a_batch_is_encoded_in_slices() -> None:
    """Between two of them the event loop may have the interpreter."""
    pauses: list[str] = []
    traced = Traced()
    while len(traced.kept.spans) < 2 * otlp.SLICE_SPANS:
        a_saga(traced.observer)
    spans = traced.kept.spans
    assert by_sdk(spans) == otlp.encode(spans, lambda: pauses.append("paused"))
    assert (len(spans) - 1) // otlp.SLICE_SPANS == len(pauses)

    readable = [span.readable() if isinstance(span, FastSpan) else span for span in spans]
    assert by_sdk(readable) == otlp.encode(readable, lambda: pauses.append("paused"))
    assert len(pauses) > 2 * ((len(spans) - 1) // otlp.SLICE_SPANS) - 1


def test_spans_of_two_providers_have_their_own_resource() -> None:
    """A host may have mounted two stages."""
    first, second = Traced(), Traced()
    second.provider._resource = Resource({"service.name": "other"})
    for traced in (first, second, first):
        traced.observer.run("s-1", "payment", TraceContext(), []).end("completed")
    spans = [*first.kept.spans, *second.kept.spans]
    assert by_sdk(spans) == otlp.encode(spans)


def test_a_path_that_is_no_text_is_left_to_the_sdk(left: list[str]) -> None:
    """Half of a surrogate pair costs its attribute, and nothing of the spans beside it."""
    traced = Traced()
    for saga_id, path in (("s-1", "/sagas"), ("s-2", "/\udcff"), ("s-3", "/sagas")):
        traced.observer.request("GET", "/?", [], saga_id, path=path, scheme="http").end("404")
    assert by_sdk(traced.kept.spans) == otlp.encode(traced.kept.spans)
    assert ["s-2"] == left


def test_an_sdk_that_sends_more_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that a later version adds is not lost: the first span of a batch shows it."""
    traced = Traced()
    a_saga(traced.observer)
    fast = otlp._fast
    monkeypatch.setattr(otlp, "_fast", lambda span: fast(span)[:-7])  # without the flags
    assert by_sdk(traced.kept.spans) == otlp.encode(traced.kept.spans)


IDS = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: int(text, 16))
ATTEMPTS = st.builds(
    Attempt,
    saga_id=st.text(),
    stage=st.text(),
    step=st.text(),
    kind=st.sampled_from(AttemptKind),
    number=st.integers(1, 10_000),
    peer=st.text(),
    parent=st.builds(
        TraceContext,
        traceparent=st.one_of(
            st.sampled_from(["", "00-1-2-01", f"01-{TRACE}-00f067aa0ba902b7-03-later"]),
            st.builds(lambda of: f"00-{TRACE}-{of}-01", IDS),
        ),
        tracestate=st.sampled_from(["", "a=1", "a=1,vendor@b=x:y"]),
    ),
    links=st.lists(IDS, max_size=3).map(tuple),
)


@given(ATTEMPTS, st.sampled_from(["step_succeeded", "step_in_doubt", ""]), st.text())
def test_any_attempt_is_encoded_as_by_the_sdk(attempt: Attempt, outcome: str, error: str) -> None:
    """Also below a context that is none, or of a later version."""
    traced = Traced()
    span = traced.observer.attempt(attempt)
    span.link(f"00-{TRACE}-00f067aa0ba902b7-00")
    span.end(outcome, error, at=1e9)
    assert by_sdk(traced.kept.spans) == otlp.encode(traced.kept.spans)
