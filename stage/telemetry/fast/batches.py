"""The batch processor of the SDK, which knows when its queue is full, and takes fast spans.

A collector that hangs or is away lets the queue fill up. The SDK would go on making spans only to
drop them, at half the throughput of a stage that makes none; an observer that asks `full` first
makes none that would be dropped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from stage.telemetry.fast.spans import FastSpan

PAUSE_SECONDS = 0.002
"""The exporter pauses for so long between two slices of a batch. A saga lets go of the interpreter
some twenty times, and without a pause the event loop would wait for a slice each time."""


class BoundedBatches(BatchSpanProcessor):
    """A batch processor of the SDK whose queue holds `capacity` spans, also fast ones."""

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        capacity: int,
        schedule_delay_millis: float | None = None,
        max_export_batch_size: int | None = None,
    ) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        if type(exporter) is not OTLPSpanExporter:  # its encoder, which is ours, takes fast spans
            exporter = ReadingExporter(exporter)
        super().__init__(
            exporter,
            max_queue_size=capacity,
            schedule_delay_millis=schedule_delay_millis,
            max_export_batch_size=max_export_batch_size,
        )
        self._waiting = self._batch_processor._queue
        self._wakes_at = self._batch_processor._max_export_batch_size - 1
        """With so many spans in the queue the next one makes a batch, which leaves at once."""
        self._leaving = False

    def is_full(self) -> bool:
        """True while a span that ends now would be dropped."""
        return len(self._waiting) >= self._capacity

    def pause(self) -> None:
        """Let the event loop have the interpreter, in the thread of the exporter.

        Not where the next batch waits already, the process is about to exit, or another thread
        flushes and waits for it.
        """
        own = threading.current_thread() is self._batch_processor._worker_thread
        if own and len(self._waiting) < self._wakes_at and not self._leaving:
            time.sleep(PAUSE_SECONDS)

    def shutdown(self) -> None:
        """See the SDK."""
        self._leaving = True
        super().shutdown()  # type: ignore[no-untyped-call]

    def on_end(self, span: ReadableSpan) -> None:
        """Queue it, or drop it when the queue is full."""
        if span.context and span.context.trace_flags.sampled:
            self.take(span)

    def take(self, span: ReadableSpan | FastSpan) -> None:
        """See `spans.FastProcessor`. It is dropped when the queue is full."""
        if len(self._waiting) < self._wakes_at:  # a deque: it needs no lock of ours
            self._waiting.appendleft(span)
            return
        with self._lock:
            if len(self._waiting) < self._capacity:
                self._batch_processor.emit(span)  # type: ignore[arg-type]  # any object


class ReadingExporter(SpanExporter):
    """Makes spans readable for an exporter that knows those of the SDK alone."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan | FastSpan]) -> SpanExportResult:
        """Export a batch."""
        return self._exporter.export(
            [span.readable() if isinstance(span, FastSpan) else span for span in spans]
        )

    def shutdown(self) -> None:
        """Stop the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait for the batch that is being sent."""
        return self._exporter.force_flush(timeout_millis)
