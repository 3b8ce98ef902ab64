"""Spans wait in a bounded queue; while it is full none are made, and then they are again."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from stage.ports.observer import TraceContext
from stage.telemetry.fast import batches as fast_batches
from stage.telemetry.fast.batches import BoundedBatches
from stage.telemetry.fast.spans import FastProvider, FastSpan
from stage.telemetry.spans import OtelObserver

CAPACITY = 8
BATCH = 4
CAME = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


class Hanging(SpanExporter):
    """A collector that takes a batch and does not answer until it may."""

    def __init__(self) -> None:
        self.taken = threading.Semaphore(0)
        self.may = threading.Semaphore(0)
        self.names: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.names += [span.name for span in spans]
        self.taken.release()
        self.may.acquire()
        return SpanExportResult.SUCCESS


@pytest.fixture
def exporter() -> Hanging:
    return Hanging()


@pytest.fixture
def batches(exporter: Hanging) -> Iterator[BoundedBatches]:
    made = BoundedBatches(
        exporter, capacity=CAPACITY, schedule_delay_millis=60_000, max_export_batch_size=BATCH
    )
    yield made
    exporter.may.release(1_000)
    made.shutdown()


def test_while_the_queue_is_full_no_span_is_made(
    exporter: Hanging, batches: BoundedBatches
) -> None:
    """The trace is passed on as it came, sampled as it was, and nobody waits."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(batches)

    full = batches.is_full
    observer = OtelObserver(provider, full=full)

    def ask() -> str:
        span = observer.request("POST", "/sagas", [("traceparent", CAME)], "s-1")
        span.end("200")
        if not span.span_id:
            assert CAME == span.context.traceparent
        return span.span_id

    assert all(ask() for _ in range(BATCH))
    exporter.taken.acquire()  # the first batch is out, and hangs
    assert all(ask() for _ in range(CAPACITY))
    assert full()
    assert not any(ask() for _ in range(100))

    exporter.may.release()
    exporter.taken.acquire()  # the second batch: there is room again
    assert not full()
    assert ask()


def test_a_span_that_ends_while_it_is_full_is_dropped_and_not_counted(
    exporter: Hanging, batches: BoundedBatches
) -> None:
    """Spans that began before: the oldest stay, and the queue never forgets that it has room."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(batches)
    tracer = provider.get_tracer("test")
    for number in range(BATCH):
        tracer.start_span(f"first {number}").end()
    exporter.taken.acquire()
    for number in range(CAPACITY + 5):
        tracer.start_span(f"then {number}").end()
    exporter.may.release(1_000)
    assert batches.force_flush()
    assert not batches.is_full()
    expected = [f"first {number}" for number in range(BATCH)]
    assert expected + [f"then {number}" for number in range(CAPACITY)] == exporter.names


def test_the_exporter_pauses_only_while_it_keeps_up(
    exporter: Hanging, batches: BoundedBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the next batch waits already, nor at the exit, nor where somebody flushes."""
    slept: list[float] = []
    monkeypatch.setattr(fast_batches, "time", SimpleNamespace(sleep=slept.append))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(batches)
    tracer = provider.get_tracer("test")
    for number in range(BATCH):
        tracer.start_span(f"{number}").end()
    exporter.taken.acquire()  # the first batch is out, and hangs

    def pause_of_the_exporter() -> int:
        with monkeypatch.context() as within:
            within.setattr(batches._batch_processor, "_worker_thread", threading.current_thread())
            batches.pause()
        return len(slept)

    batches.pause()  # in another thread than that of the exporter
    assert [] == slept
    assert 1 == pause_of_the_exporter()
    assert [fast_batches.PAUSE_SECONDS] == slept
    for number in range(BATCH):
        tracer.start_span(f"{number}").end()
    assert 1 == pause_of_the_exporter()

    exporter.may.release(1_000)
    batches.force_flush()
    assert 2 == pause_of_the_exporter()
    batches.shutdown()
    assert 2 == pause_of_the_exporter()


def test_an_exporter_of_another_kind_reads_fast_spans(
    exporter: Hanging, batches: BoundedBatches
) -> None:
    """It knows the spans of the SDK alone; those of the author come between them as they are."""
    provider = FastProvider(shutdown_on_exit=False)
    provider.add_span_processor(batches)
    observer = OtelObserver(provider, full=batches.is_full)
    for number in range(BATCH // 2):
        span = observer.request("POST", "/sagas", [], f"s-{number}")
        assert isinstance(span, FastSpan)
        span.end("200")
        provider.get_tracer("author").start_span(f"mine {number}").end()
    exporter.taken.acquire()
    assert ["POST /sagas", "mine 0", "POST /sagas", "mine 1"] == exporter.names


def test_fast_spans_that_end_while_it_is_full_are_dropped(
    exporter: Hanging, batches: BoundedBatches
) -> None:
    """The oldest stay, as with spans of the SDK."""
    provider = FastProvider(shutdown_on_exit=False)
    provider.add_span_processor(batches)
    observer = OtelObserver(provider)
    for number in range(BATCH + CAPACITY + 5):
        observer.run(f"s-{number}", "payment", TraceContext(), []).end("completed")
        if number == BATCH - 1:
            exporter.taken.acquire()  # the first batch is out, and hangs
    assert batches.is_full()
    exporter.may.release(1_000)
    assert batches.force_flush()
    assert not batches.is_full() and BATCH + CAPACITY == len(exporter.names)
