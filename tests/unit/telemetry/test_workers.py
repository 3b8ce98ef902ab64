"""The metrics of all workers in one text that prometheus_client reads again."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from stage.telemetry.workers import together


def text_of(count: int, accept: str) -> tuple[bytes, str]:
    registry = CollectorRegistry()
    counter = Counter("stage_ended", "Sagas that ended.", ["state"], registry=registry)
    counter.labels("completed").inc(count, exemplar={"trace_id": "a{b c}"})
    Counter("stage_plain", "Without a label.", registry=registry).inc(count)
    Histogram("stage_seconds", "How long.", ["step"], registry=registry).labels("a b").observe(
        count
    )
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def test_each_family_stands_once_with_the_worker_as_a_label() -> None:
    """In both formats; the sums are those of the texts."""
    for accept, read in (
        ("text/plain", read_text),
        ("application/openmetrics-text; version=1.0.0", read_openmetrics),
    ):
        text, content_type = together({0: text_of(3, accept), 1: None, 2: text_of(4, accept)})
        families = {family.name: family for family in read(text.decode())}
        assert choose_encoder(accept)[1] == content_type
        ended = [s for s in families["stage_ended"].samples if s.name == "stage_ended_total"]
        assert {("0", "completed"): 3.0, ("2", "completed"): 4.0} == {
            (sample.labels["worker"], sample.labels["state"]): sample.value for sample in ended
        }
        assert 7.0 == sum(
            s.value for s in families["stage_plain"].samples if s.name == "stage_plain_total"
        )
        counts = [s for s in families["stage_seconds"].samples if s.name == "stage_seconds_count"]
        assert [{"worker": w, "step": "a b"} for w in "02"] == [s.labels for s in counts]
        up = families["stage_worker_up"].samples
        assert {"0": 1.0, "1": 0.0, "2": 1.0} == {s.labels["worker"]: s.value for s in up}
