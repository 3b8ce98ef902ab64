"""The metrics on the OpenTelemetry API: for a meter provider of the host, or of our entry point.

Counters and gauges are read when the provider collects; distributions are recorded as they happen.
Without a provider all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from weakref import ref

from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
    get_meter,
)

from stage.core.version import __version__
from stage.telemetry import names
from stage.telemetry.gauges import Gauges
from stage.telemetry.metrics import Labels, Metrics

Callback = Callable[[CallbackOptions], Iterable[Observation]]


def bridge(metrics: Metrics, gauges: Gauges, provider: MeterProvider | None, stage: str) -> None:
    """Make an instrument for every metric of the table, with `provider` or the global one.

    Each observation carries the name of the stage: a host may have mounted several.
    """
    # A meter each: of two observable instruments of one name a meter reads the first alone.
    of_stage = {names.STAGE: stage}
    meter = get_meter(names.SCOPE, __version__, meter_provider=provider, attributes=of_stage)
    recorded: dict[str, Histogram] = {}
    # A provider keeps a callback as long as the process: the stage it reads may be gone before.
    here = ref(gauges)
    for name, metric in names.METRICS.items():
        match metric.kind:
            case "histogram":
                recorded[name] = _histogram(meter, name, metric)
            case "counter":
                callback = _reading(of_stage, metric.labels, partial(_counted, metrics, name))
                meter.create_observable_counter(name, [callback], metric.unit, metric.description)
            case "gauge":
                callback = _reading(of_stage, metric.labels, partial(_gauged, here, name))
                meter.create_observable_gauge(name, [callback], metric.unit, metric.description)

    @cache  # as many as there are series
    def attributes(name: str, labels: Labels) -> Mapping[str, str]:
        return {**of_stage, **dict(zip(names.METRICS[name].labels, labels, strict=True))}

    def observed(name: str, labels: Labels, value: float) -> None:
        try:  # `suppress` would cost more than the call
            recorded[name].record(value, attributes(name, labels))
        except Exception:
            return  # of a meter of the host; telemetry never fails a saga

    metrics.observed = observed


def _counted(metrics: Metrics, name: str) -> Mapping[Labels, float]:
    return metrics.counters[name].copy()


def _gauged(here: ref[Gauges], name: str) -> Mapping[Labels, float]:
    gauges = here()
    return {} if gauges is None else gauges.read(name)


def _histogram(meter: Meter, name: str, metric: names.Metric) -> Histogram:
    return meter.create_histogram(
        name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=metric.bounds
    )


def _reading(
    of_stage: Mapping[str, str], keys: Labels, read: Callable[[], Mapping[Labels, float]]
) -> Callback:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {**of_stage, **dict(zip(keys, labels, strict=True))})
            for labels, value in read().items()
        ]

    return callback
