"""The trace of each story: one span of the demo, above the spans of the four services."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace as otel
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import propagation
from stage.telemetry.propagation import Ids


class StorySpan:
    """The span of one story, or only its ids if there is no collector."""

    def __init__(self, span: otel.Span) -> None:
        context = span.get_span_context()
        self._span = span
        ids = Ids(context.trace_id, context.span_id, int(context.trace_flags))
        self.ids = ids if context.is_valid else propagation.new_ids()

    def failed(self) -> None:
        """The story did not end as expected."""
        self._span.set_status(Status(StatusCode.ERROR))

    @property
    def traceparent(self) -> str:
        """The header of requests that belong to the story."""
        return propagation.format_traceparent(self.ids)

    @property
    def aside(self) -> str:
        """The header of queries and scripts: not sampled, so that no service reports a span."""
        return propagation.format_traceparent(self.ids._replace(flags=0))


@contextmanager
def story_span(name: str) -> Iterator[StorySpan]:
    """A span around the story of that name."""
    with otel.get_tracer("stage.demo").start_as_current_span(f"story {name}") as span:
        yield StorySpan(span)
