"""The trace of each story: one span of the demo's own, above all that the four services report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace as otel
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import propagation
from stage.telemetry.propagation import Ids


class StorySpan:
    """The span of one story, or only its ids where nothing is sent to a collector."""

    def __init__(self, span: otel.Span) -> None:
        told = span.get_span_context()
        self._span = span
        ids = Ids(told.trace_id, told.span_id, int(told.trace_flags))
        self.ids = ids if told.is_valid else propagation.new_ids()

    def failed(self) -> None:
        """The story did not end as told."""
        self._span.set_status(Status(StatusCode.ERROR))

    @property
    def traceparent(self) -> str:
        """For what belongs to the story."""
        return propagation.format_traceparent(self.ids)

    @property
    def aside(self) -> str:
        """For looks and scripts: nobody is to report a span for them."""
        return propagation.format_traceparent(self.ids._replace(flags=0))


@contextmanager
def story_span(name: str) -> Iterator[StorySpan]:
    """A span around the story of that name."""
    with otel.get_tracer("stage.demo").start_as_current_span(f"story {name}") as span:
        yield StorySpan(span)
