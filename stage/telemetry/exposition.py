"""The metrics as Prometheus text, written by prometheus_client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family

from stage.telemetry import names
from stage.telemetry.gauges import Gauges
from stage.telemetry.metrics import Histogram, Labels, Metrics


class _Collector:
    """The collector that prometheus_client asks for its families."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self.gauges: Mapping[str, Mapping[Labels, float]] = {}
        """The values of each gauge, read in the event loop: what they look at changes there."""

    def collect(self) -> Iterator[Family]:
        """Every metric of the table, also where nothing was counted yet."""
        for name, metric in names.METRICS.items():
            head = names.prometheus_name(name), metric.description
            match metric.kind:
                case "gauge":
                    gauge = GaugeMetricFamily(*head, labels=metric.labels)
                    for labels, value in sorted(self.gauges.get(name, {}).items()):
                        gauge.add_metric(labels, value)
                    yield gauge
                case "counter":
                    counter = CounterMetricFamily(*head, labels=metric.labels)
                    for labels, count in sorted(self._metrics.counters[name].copy().items()):
                        counter.add_metric(labels, count)
                    yield counter
                case "histogram":
                    family = HistogramMetricFamily(*head, labels=metric.labels)
                    for labels, held in sorted(self._metrics.histograms[name].copy().items()):
                        family.add_metric(labels, buckets=_cumulated(held), sum_value=held.sum)
                    yield family


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    """Counts at or below each bound, as the format wants them."""
    total, buckets = 0, []
    bounds = [*map(str, histogram.bounds), "+Inf"]
    for bound, count in zip(bounds, list(histogram.counts), strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


class Exposition:
    """Writes the text; beside the metrics of the table those of the process (`process_…`)."""

    def __init__(self, metrics: Metrics, gauges: Gauges) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._collector = _Collector(metrics)
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)
        self._gauges = gauges

    async def write(self, accept: str) -> tuple[bytes, str]:
        """The text and its content type: version 0.0.4, or OpenMetrics where that is asked for."""
        await self._gauges.refresh()
        self._collector.gauges = {
            name: self._gauges.read(name)
            for name, metric in names.METRICS.items()
            if metric.kind == "gauge"
        }
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # for a version that is no number
            encode, content_type = choose_encoder("")
        return await asyncio.to_thread(encode, self._registry), content_type
