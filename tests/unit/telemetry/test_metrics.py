"""Metrics: what is counted, what is remembered, and the page that lists it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.ports.observer import TraceContext
from stage.telemetry import metrics as measured
from stage.telemetry import names
from stage.telemetry.metrics import ATTEMPT_ENDS, SAGA_ENDS, Histogram, Metrics
from tests.unit.telemetry.given import an_attempt

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"
NO_TRACE = TraceContext()
AT = 1_800_000_000.0
ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| (.*?) \| (.+) \|$", re.MULTILINE)


def happened(metrics: Metrics, event: e.Event, saga_id: str = "s-1") -> None:
    metrics.happened(saga_id, "payment", event, NO_TRACE, AT - 3.0)


def test_every_end_of_an_attempt_is_counted() -> None:
    """A new outcome is a new value of the label, not a gap."""
    assert set(get_args(e.AttemptEnd)) == set(ATTEMPT_ENDS)
    assert set(names.METRICS[names.M_SAGAS_ENDED].values) == set(SAGA_ENDS.values())


def test_an_attempt_lasts_from_its_begin_to_its_end() -> None:
    """One whose begin is not known, because it was in another process, is counted all the same."""
    metrics = Metrics()
    metrics.attempted(an_attempt(), "")
    happened(metrics, e.StepSucceeded(at=AT, step="charge"))
    happened(metrics, e.StepSucceeded(at=AT, step="charge"), "s-2")
    labels = ("charge", "execute", "succeeded")
    assert {labels: 2} == metrics.counters[names.M_ATTEMPTS]
    assert 1 == sum(metrics.histograms[names.M_ATTEMPT_DURATION][labels].counts)


def test_telling_upstream_is_an_attempt_too() -> None:
    """It belongs to no step; whichever name it begins under, it ends under one."""
    metrics = Metrics()
    metrics.attempted(an_attempt(step="order", kind=AttemptKind.TELL), "")
    happened(metrics, e.TellDelivered(at=AT))
    labels = (measured.TELL_STEP, "tell", "delivered")
    assert 1 == sum(metrics.histograms[names.M_ATTEMPT_DURATION][labels].counts)


def test_a_saga_lasts_from_its_acceptance_also_over_a_restart() -> None:
    """The instant comes with the event, not from the memory of a process."""
    metrics = Metrics()
    happened(metrics, e.Completed(at=AT))
    assert 3.0 == metrics.histograms[names.M_SAGA_DURATION]["completed",].sum


def test_an_attempt_that_never_ends_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first; memory is bounded."""
    monkeypatch.setattr(measured, "ATTEMPTS_REMEMBERED_MAX", 2)
    metrics = Metrics()
    for saga_id in ("s-1", "s-2", "s-3"):
        metrics.attempted(an_attempt(saga_id), "")
    for saga_id in ("s-1", "s-2", "s-3"):
        happened(metrics, e.StepSucceeded(at=AT, step="charge"), saga_id)
    held = metrics.histograms[names.M_ATTEMPT_DURATION]["charge", "execute", "succeeded"]
    assert 2 == sum(held.counts)


def test_a_defect_is_counted_by_words_of_ours_alone() -> None:
    """A method from outside never becomes a label."""
    metrics = Metrics()
    for where in ("run", "BREW /sagas"):
        metrics.defect(where, "", NO_TRACE, ValueError())
    counted = metrics.counters[names.M_DEFECTS]
    assert {"run": 1, "request": 1} == {where: n for (where,), n in counted.items() if n}


def test_an_upper_bound_belongs_to_its_bucket() -> None:
    """As Prometheus' `le` says."""
    histogram = Histogram([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert ([2, 1, 1], 12.0) == (histogram.counts, histogram.sum)


def test_a_stranger_makes_no_series() -> None:
    """Neither by paths nor by methods that nobody knows."""
    metrics = Metrics()
    for number in range(100):
        metrics.answered(f"METHOD{number}", "/?", 405)
    assert {("_OTHER", "/?", "405"): 100} == metrics.counters[names.M_REQUESTS]


def test_no_label_holds_an_id() -> None:
    """Cardinality is that of steps, peers and outcomes."""
    labels = {label for metric in names.METRICS.values() for label in metric.labels}
    known = {"state", "cause", "peer", "place", "outcome", "step", "activity", "where", "thread"}
    of_requests = {"method", "route", "code", "what", "part", "answer", "kind"}
    assert known | of_requests | {"target", "direction"} == labels


def test_the_page_names_every_metric() -> None:
    """By its name in Prometheus, with kind, labels and words; and of no other."""
    rows = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, labels, text in ROW.findall(PAGE.read_text(encoding="utf-8"))
    }
    suffixes = {"counter": "_total"}
    assert rows == {
        names.prometheus_name(name) + suffixes.get(metric.kind, ""): (
            metric.kind,
            metric.labels,
            metric.description,
        )
        for name, metric in names.METRICS.items()
    }


def test_events_that_nothing_counts_are_not_wanted() -> None:
    """The intents of attempts, and what people did; a new kind of event has to be judged here."""
    metrics = Metrics()
    deaf = {kind for kind in get_args(e.Event) if not metrics.wants(kind)}
    counted = {*ATTEMPT_ENDS, *SAGA_ENDS, e.Accepted, e.Parked, e.Recovered}
    assert set(get_args(e.Event)) - counted == deaf and e.StepStarted in deaf
