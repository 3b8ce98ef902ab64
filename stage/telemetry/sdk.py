"""Sets up the OpenTelemetry SDK, for our own entry point and only when nobody else did.

The imports are inside of the functions: without a collector nothing of the SDK is loaded.
A collector that is slow or gone never holds a saga (spans wait in a bounded queue, and while it is
full none are made) and holds the exit for at most SHUTDOWN_SECONDS_MAX.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from stage.core.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from stage.telemetry.fast.batches import BoundedBatches

SHUTDOWN_SECONDS_MAX: Final = 2.0
BATCH_DELAY_MS: Final = 1_000
"""Spans leave after a second unless OTEL_BSP_SCHEDULE_DELAY says otherwise: a process that is
killed takes with it what has not left, and the default of five seconds is a lot of that."""

SPANS_WAITING_MAX: Final = 4_096
"""Unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise."""
SPANS_PER_BATCH_MAX: Final = 1_024
"""Unless OTEL_BSP_MAX_EXPORT_BATCH_SIZE says otherwise. Twice as many as the SDK sends at once,
since each batch is a request and each saga has eight spans."""

ENDPOINT_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_VARIABLE: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS_VARIABLE: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
TRACES_PATH: Final = "/v1/traces"
METRICS_PATH: Final = "/v1/metrics"


class Provider(Protocol):
    """Of a provider of the SDK, what is needed to end it."""

    def shutdown(self) -> None:
        """Send what waits and stop."""
        ...


_ours: list[Provider] = []
_batches: list[BoundedBatches] = []


def setup(service_name: str, endpoint: str | None = None) -> bool:
    """Send spans to a collector by OTLP over HTTP; True when that was set up here.

    Nothing happens when a tracer provider is set already, when no endpoint is configured (by
    `endpoint`, a base URL, or by the OTEL_ variables), or when these switch tracing off. Raises
    ConfigurationError for a variable that is out of range.
    """
    if not wanted(os.environ, endpoint):
        return False
    from opentelemetry import trace

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    from opentelemetry.exporter.otlp.proto.http import trace_exporter

    from stage.telemetry.fast import otlp
    from stage.telemetry.fast.batches import BoundedBatches
    from stage.telemetry.fast.ids import StoredIds
    from stage.telemetry.fast.spans import LeanProvider

    # The exporter stays the SDK's, with all of its variables, and has no other door for an encoder.
    # Without such a name, in another version, this does nothing.
    trace_exporter.encode_spans = otlp.encode  # type: ignore[assignment, attr-defined]
    delay = None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else BATCH_DELAY_MS
    with _variables_judged():
        # The exporter takes a whole address, and adds the path itself to that of the variables.
        exporter = trace_exporter.OTLPSpanExporter(
            endpoint.rstrip("/") + TRACES_PATH if endpoint else None
        )
        batches = BoundedBatches(
            exporter,
            capacity=_capacity(),
            schedule_delay_millis=delay,
            max_export_batch_size=_batch_size(),
        )
        # Its own exit hook has no bound: `shutdown` takes the place of it.
        provider = LeanProvider(
            resource=_resource(service_name), shutdown_on_exit=False, id_generator=StoredIds()
        )
    provider.add_span_processor(batches)
    trace.set_tracer_provider(provider)
    _ours.append(provider)
    _batches.append(batches)
    return True


def setup_metrics(service_name: str, endpoint: str | None = None) -> bool:
    """Send metrics to a collector by OTLP over HTTP; True when that was set up here.

    They have to be asked for by OTEL_METRICS_EXPORTER=otlp, because `/metrics` has them anyway
    and many a collector takes spans alone. Otherwise as `setup`.
    """
    if not metrics_wanted(os.environ, endpoint):
        return False
    from opentelemetry import metrics
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    if isinstance(metrics.get_meter_provider(), MeterProvider | metrics.NoOpMeterProvider):
        return False
    with _variables_judged():
        exporter = OTLPMetricExporter(endpoint.rstrip("/") + METRICS_PATH if endpoint else None)
        provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter)],
            resource=_resource(service_name),
            shutdown_on_exit=False,
        )
    metrics.set_meter_provider(provider)
    _ours.append(provider)
    return True


def wanted(environ: Mapping[str, str], endpoint: str | None) -> bool:
    """Whether spans are to be sent at all."""
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return _wanted(environ, endpoint, exporters, TRACES_VARIABLE)


def metrics_wanted(environ: Mapping[str, str], endpoint: str | None) -> bool:
    """Whether metrics are to be sent at all."""
    exporters = environ.get("OTEL_METRICS_EXPORTER", "")
    return _wanted(environ, endpoint, exporters, METRICS_VARIABLE)


def _wanted(
    environ: Mapping[str, str], endpoint: str | None, exporters: str, variable: str
) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if "otlp" not in (each.strip().lower() for each in exporters.split(",")):
        return False  # `none`, or one that we do not have
    return bool(endpoint) or any(
        environ.get(name, "").strip() for name in (variable, ENDPOINT_VARIABLE)
    )


def shutdown(seconds_max: float = SHUTDOWN_SECONDS_MAX) -> bool:
    """Send what waits and stop, within `seconds_max`; False when the collector was too slow.

    Nothing happens when nothing was set up here.
    """
    providers = list(_ours)
    _ours.clear()
    _batches.clear()
    latest = time.monotonic() + seconds_max
    # Threads that die with the process: an exporter cannot be interrupted in the middle.
    last = [
        threading.Thread(target=each.shutdown, name="stage-telemetry-exit", daemon=True)
        for each in providers
    ]
    for thread in last:
        thread.start()
    for thread in last:
        thread.join(max(0.0, latest - time.monotonic()))
    return not any(thread.is_alive() for thread in last)


def full() -> bool:
    """True while more spans wait for the collector than may: those made now would be dropped."""
    return any(each.full for each in _batches)


def _capacity() -> int:
    told = os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")
    return int(told) if told.isdecimal() and int(told) else SPANS_WAITING_MAX


def _batch_size() -> int | None:
    """None leaves it to the SDK, which reads the variable.

    A batch leaves once so many wait: there must be room for others meanwhile.
    """
    if os.environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "").strip():
        return None
    return min(SPANS_PER_BATCH_MAX, (_capacity() + 1) // 2)


@contextmanager
def _variables_judged() -> Iterator[None]:
    """The SDK reads its variables itself, and takes the default for most that cannot be read."""
    try:
        yield
    except ValueError as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(
            f"an OTEL_ variable is out of range: {said} Mend it, or unset it for its default"
        ) from error


def _resource(service_name: str) -> Resource:
    from opentelemetry.sdk.resources import (
        SERVICE_NAME,
        SERVICE_VERSION,
        OTELResourceDetector,
        Resource,
    )

    from stage.core.version import __version__

    # What the environment says holds: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    ours = Resource({SERVICE_VERSION: __version__, SERVICE_NAME: service_name})
    theirs = OTELResourceDetector().detect()
    return Resource.create().merge(ours).merge(theirs)
