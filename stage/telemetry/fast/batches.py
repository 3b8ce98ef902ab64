"""The batch processor of the SDK, which also knows when its queue is full.

A collector that hangs or is away lets the queue fill up. The SDK would go on making spans only to
drop them, at half the throughput of a stage that makes none; an observer that asks `full` first
makes none that would be dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult


class BoundedBatches(BatchSpanProcessor):
    """A batch processor of the SDK that counts the spans that wait; `capacity` is the limit."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        capacity: int,
        schedule_delay_millis: float | None = None,
        max_export_batch_size: int | None = None,
    ) -> None:
        self._capacity = capacity
        self._waiting = 0
        self._lock = threading.Lock()
        super().__init__(
            _CountingExporter(exporter, self._take),
            max_queue_size=capacity,
            schedule_delay_millis=schedule_delay_millis,
            max_export_batch_size=max_export_batch_size,
        )

    @property
    def full(self) -> bool:
        """True while a span that ends now would be dropped."""
        return self._waiting >= self._capacity

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, or drop it when the queue is full."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            if self.full:
                return
            self._waiting += 1
        super().on_end(span)

    def _take(self, spans: int) -> None:
        with self._lock:
            self._waiting -= spans


class _CountingExporter(SpanExporter):
    """An exporter that counts the spans that left the queue, before it sends them."""

    def __init__(self, exporter: SpanExporter, take: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._take = take

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        self._take(len(spans))
        return self._exporter.export(spans)

    def shutdown(self) -> None:
        """Stop the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait for the batch that is being sent."""
        return self._exporter.force_flush(timeout_millis)
