"""Sets up the OpenTelemetry SDK, for our own entry point and only when nobody else did.

The imports are inside of the functions: without a collector nothing of the SDK is loaded.
A collector that is slow or gone never holds a saga (spans wait in a bounded queue, and while it is
full none are made) and holds the exit for at most SHUTDOWN_SECONDS_MAX. The pieces that make
this fast are in `telemetry.fast`; where they are off, the SDK does it all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from stage.core.errors import ConfigurationError
from stage.telemetry import names

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

    from stage.telemetry.fast.install import Off, Pipeline, QueueLimits

SHUTDOWN_SECONDS_MAX: Final = 2.0
BATCH_DELAY_MS: Final = 1_000
"""Spans leave after a second unless OTEL_BSP_SCHEDULE_DELAY says otherwise: a process that is
killed takes with it what has not left, and the default of five seconds is a lot of that."""

SPANS_WAITING_MAX: Final = 8_192
"""Unless OTEL_BSP_MAX_QUEUE_SIZE says otherwise."""
SPANS_PER_BATCH_MAX: Final = 2_048
"""Unless OTEL_BSP_MAX_EXPORT_BATCH_SIZE says otherwise. Four times as many as the SDK sends at
once: each batch is a request, which alone costs as much as five sagas, and each of them has eight
spans."""

ENDPOINT_VARIABLE: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACES_VARIABLE: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
METRICS_VARIABLE: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
TRACES_PATH: Final = "/v1/traces"
METRICS_PATH: Final = "/v1/metrics"


class Provider(Protocol):
    """The method of a provider of the SDK that ends it."""

    def shutdown(self) -> None:
        """Send all that waits and stop."""
        ...


_ours: list[Provider] = []
_full: list[Callable[[], bool]] = []


def setup(service_name: str, endpoint: str | None = None) -> bool:
    """Send spans to a collector by OTLP over HTTP; True when that was set up here.

    Nothing happens when a tracer provider is set already, when no endpoint is configured (by
    `endpoint`, a base URL, or by the OTEL_ variables), or when these switch tracing off. Logs a
    line when the fast pieces are off. Raises ConfigurationError for a variable out of range.
    """
    if not wanted(os.environ, endpoint):
        return False
    from opentelemetry import trace

    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    from stage.telemetry.fast.install import QueueLimits, install

    limits = QueueLimits(
        capacity=_capacity(),
        delay_ms=None if "OTEL_BSP_SCHEDULE_DELAY" in os.environ else BATCH_DELAY_MS,
        batch_size=_batch_size(),
    )
    with _checked_variables():
        # The exporter takes a whole address, and adds the path itself to that of the variables.
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + TRACES_PATH if endpoint else None)
        resource = _resource(service_name)
        pipeline = install(exporter, resource=resource, limits=limits, report=_log_off)
        if pipeline is None:
            pipeline = _by_sdk_alone(exporter, resource, limits)
    trace.set_tracer_provider(pipeline.provider)
    _ours.append(pipeline.provider)
    _full.append(pipeline.full)
    return True


def _by_sdk_alone(exporter: SpanExporter, resource: Resource, limits: QueueLimits) -> Pipeline:
    """The same pipeline without the fast pieces. Its queue drops the spans that do not fit."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from stage.telemetry.fast.install import Pipeline
    from stage.telemetry.id_generator import StageIdGenerator

    # The exit hook of the SDK has no bound: `shutdown` takes the place of it.
    provider = TracerProvider(
        resource=resource, shutdown_on_exit=False, id_generator=StageIdGenerator()
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            exporter,
            max_queue_size=limits.capacity,
            schedule_delay_millis=limits.delay_ms,
            max_export_batch_size=limits.batch_size,
        )
    )
    return Pipeline(provider=provider, full=lambda: False)


def _log_off(off: Off) -> None:
    from stage.telemetry.logs import default_logger

    log = default_logger()
    (log.info if off.deliberate else log.warning)(names.LOG_FAST_OFF, reason=off.reason)


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
    with _checked_variables():
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
    """Send all that waits and stop, within `seconds_max`; False when the collector was too slow.

    Nothing happens when nothing was set up here.
    """
    providers = list(_ours)
    _ours.clear()
    _full.clear()
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
    for each in _full:  # noqa: SIM110 - asked eight times a saga, and `any` takes twice as long
        if each():
            return True
    return False


def _capacity() -> int:
    text = os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")
    return int(text) if text.isdecimal() and int(text) else SPANS_WAITING_MAX


def _batch_size() -> int | None:
    """None leaves it to the SDK, which reads the variable.

    A batch leaves once so many wait: there must be room for others meanwhile.
    """
    if os.environ.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "").strip():
        return None
    return min(SPANS_PER_BATCH_MAX, (_capacity() + 1) // 2)


@contextmanager
def _checked_variables() -> Iterator[None]:
    """The SDK reads its variables itself, and takes the default for most that cannot be read."""
    try:
        yield
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ConfigurationError(
            f"an OTEL_ variable is out of range: {text} Mend it, or unset it for its default"
        ) from error


def _resource(service_name: str) -> Resource:
    from opentelemetry.sdk.resources import (
        SERVICE_NAME,
        SERVICE_VERSION,
        OTELResourceDetector,
        Resource,
    )

    from stage.core.version import __version__

    # The environment wins: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
    ours = Resource({SERVICE_VERSION: __version__, SERVICE_NAME: service_name})
    of_environment = OTELResourceDetector().detect()
    return Resource.create().merge(ours).merge(of_environment)
