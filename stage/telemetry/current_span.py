"""Makes a span of ours the current one of OpenTelemetry while a function of the author runs.

A span that the author starts there is then a child of ours, in the trace of the saga. Our span
itself is not handed out: what is current carries its ids and records nothing, so that no function
of the author can end it or write into it.
"""

from __future__ import annotations

from opentelemetry import trace as otel
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, SpanContext

_EMPTY = Context()
"""The author's function finds the same context when the saga runs and when it is recovered:
nothing of the request that happened to start this process's work on it."""


class CurrentSpan:
    """A context manager; to be entered once, and left in the context in which it was entered."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: SpanContext) -> None:
        self._span = span

    def __enter__(self) -> None:
        self._token = attach(otel.set_span_in_context(NonRecordingSpan(self._span), _EMPTY))

    def __exit__(self, *_: object) -> None:
        detach(self._token)
