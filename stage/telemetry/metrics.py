"""Counts events, in plain numbers: cheap to add to, and read when they are asked for.

There are two ways out for the same numbers: Prometheus text (`telemetry.exposition`) and the
OpenTelemetry API (`telemetry.meters`). Both follow the table `names.METRICS`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Final

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.event_table import EVENTS, park_cause_of
from stage.ports.author_code import StuckCode
from stage.ports.observer import Attempt, DroppedKind, TraceContext
from stage.telemetry import names

ATTEMPTS_REMEMBERED_MAX: Final = 10_000
"""Attempts whose start is known; the oldest is dropped when there are more."""
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
TELL_STEP: Final = "tell_upstream"

Labels = tuple[str, ...]
Hook = Callable[[str, Labels, float], None]
"""Called with each observation: the name of the metric, its labels, its value."""


ATTEMPT_ENDS: Final = {
    kind: (row.ends, row.ends.value, row.end)
    for kind, row in EVENTS.items()
    if row.ends is not None
}
"""The end of an attempt, by the event that ends it: its kind, and the labels of both."""
SAGA_ENDS: Final = {
    kind: row.outcome.value for kind, row in EVENTS.items() if row.outcome is not None
}
"""The state that the saga ends in, by the event that ends it."""
PARKS: Final = frozenset(kind for kind, row in EVENTS.items() if row.parks)
"""The events from which a saga waits for a person."""
_COUNTED: Final[Mapping[type[e.Event], str]] = {
    e.Accepted: names.M_SAGAS_ACCEPTED,
    e.Recovered: names.M_SAGAS_RECOVERED,
}


class Histogram:
    """Counts by upper bound, and the sum. One thread writes, any may read."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one value; an upper bound belongs to its bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """telemetry.compose.Listener that counts; it counts the batches of the writer too.

    `counters` and `histograms` hold the numbers by the name of the metric, then by its labels.
    """

    def __init__(self, peers: Iterable[str] = ()) -> None:
        """`peers` are those of the stage: what is watched of them begins before it is counted."""
        self.counters: dict[str, dict[Labels, int]] = {}
        self.histograms: dict[str, dict[Labels, Histogram]] = {}
        for name, metric in names.METRICS.items():
            if metric.kind == "counter":
                # A series begins at 0: Prometheus sees no increase in one that begins at 1.
                known = ((value,) for value in metric.values) if metric.labels else ((),)
                self.counters[name] = dict.fromkeys(known, 0)
            elif metric.kind == "histogram":
                self.histograms[name] = {} if metric.labels else {(): Histogram(metric.bounds)}
        self.counters[names.M_PEER_ANSWERS] = {
            (peer, code): 0 for peer in peers for code in ("401", "403")
        }
        self.observed: Hook | None = None
        """Called with every observation: a distribution cannot be read off later."""
        self._began: dict[tuple[str, AttemptKind, str], float] = {}

    # --- telemetry.compose.Listener ----------------------------------------------------------

    def attempted(self, attempt: Attempt, span_id: str) -> None:
        """Remember when it began."""
        began = self._began
        if len(began) >= ATTEMPTS_REMEMBERED_MAX:
            with suppress(RuntimeError, StopIteration):  # another thread may write too
                began.pop(next(iter(began)), None)
        step = TELL_STEP if attempt.kind is AttemptKind.TELL else attempt.step
        began[attempt.saga_id, attempt.kind, step] = perf_counter()

    def wants(self, kind: type[e.Event]) -> bool:
        """Events that are counted; the intents of attempts are not."""
        return kind in ATTEMPT_ENDS or kind in SAGA_ENDS or kind in _COUNTED or kind in PARKS

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: e.Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """Count it; a saga that was taken up from its rest was in no lost run."""
        kind = type(event)
        if (ended := ATTEMPT_ENDS.get(kind)) is not None:  # most of what is counted
            self._attempt_ended(saga_id, event, *ended)
        elif (end := SAGA_ENDS.get(kind)) is not None:
            self._count(names.M_SAGAS_ENDED, (end,))
            if accepted_at is not None:
                self._observe(names.M_SAGA_DURATION, (end,), max(0.0, event.at - accepted_at))
        elif (name := _COUNTED.get(kind)) is not None and not getattr(event, "rested", False):
            self._count(name)
        if kind in PARKS and (cause := park_cause_of(event)) is not None:
            self._count(names.M_SAGAS_PARKED, (cause.value,))

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """Count it by where; a route, whose name may come from outside, as `request`."""
        known = where in names.METRICS[names.M_DEFECTS].values
        self._count(names.M_DEFECTS, (where if known else "request",))

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """Count them by kind."""
        self._count(names.M_DROPPED, (kind.value,), count)

    def answered(self, method: str, route: str, code: int) -> None:
        """Count a request by the template of its path; methods that HTTP lacks are one."""
        known = method if method in _METHODS else "_OTHER"
        self._count(names.M_REQUESTS, (known, route, str(code)))

    def peer_answered(self, peer: str, answer: str) -> None:
        """Count what became of a request of ours: a code, or one word for no answer."""
        self._count(names.M_PEER_ANSWERS, (peer, answer))

    def stuck(self, code: StuckCode) -> None:
        """Count code that does not come to an end."""
        self._count(names.M_STUCK, (code.thread.value,))

    def lines_dropped(self, lines: int) -> None:
        """Count lines of the log that could not be written."""
        self._count(names.M_LINES_DROPPED, (), lines)

    # --- store.writer ------------------------------------------------------------------------

    def committed(self, units: int, seconds: float) -> None:
        """A batch of that many units became durable; its COMMIT took so long."""
        self._observe(names.M_BATCH_UNITS, (), units)
        self._observe(names.M_COMMIT_DURATION, (), seconds)

    def waited(self, seconds: float) -> None:
        """A statement has waited so long for a connection to the server."""
        self._observe(names.M_CONNECTION_WAIT, (), seconds)

    # -----------------------------------------------------------------------------------------

    def _attempt_ended(
        self, saga_id: str, event: e.Event, kind: AttemptKind, label: str, outcome: str
    ) -> None:
        step: str = getattr(event, "step", TELL_STEP)
        labels = (step, label, outcome)
        attempts = self.counters[names.M_ATTEMPTS]
        attempts[labels] = attempts.get(labels, 0) + 1
        if getattr(event, "denied", False):
            self._count(names.M_DENIED, (step,))
        began = self._began.pop((saga_id, kind, step), None)
        if began is not None:
            self._observe(names.M_ATTEMPT_DURATION, labels, perf_counter() - began)

    def _count(self, name: str, labels: Labels = (), by: int = 1) -> None:
        counts = self.counters[name]
        counts[labels] = counts.get(labels, 0) + by

    def _observe(self, name: str, labels: Labels, value: float) -> None:
        histogram = self.histograms[name].get(labels)
        if histogram is None:
            made = Histogram(names.METRICS[name].bounds)
            histogram = self.histograms[name].setdefault(labels, made)
        histogram.observe(value)
        if self.observed is not None:
            self.observed(name, labels, value)
