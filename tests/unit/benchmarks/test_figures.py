"""The figures: medians of what stood side by side, and what a file of evidence prints again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import throughput
from benchmarks.__main__ import EVIDENCE, ROOT, printed
from benchmarks.contestants import (
    CEILING,
    GROUPED,
    HANDWRITTEN,
    REFUSED,
    STAGE,
    TRACED,
    Contestant,
    has_option,
)
from benchmarks.figures import ON_A_FILE, Figure, exported, figures
from benchmarks.load import Load
from benchmarks.machine import build
from benchmarks.on_postgres import ON_A_SERVER, dbos, stages
from benchmarks.open_loop import ANSWER_SECONDS_MAX, Answered
from benchmarks.peers.__main__ import printed as printed_peers
from benchmarks.throughput import (
    LONE,
    SHARE_OF_PEAK,
    WIDE,
    AnsweredWrongly,
    Sample,
    Steady,
    latencies_of,
    peak_rates,
    raw,
)

MICROSECOND = 1e-6


def sample(
    of: str, number: int, rate: float, cpu: float = 500.0, width: int = WIDE, p50: float = 0.01
) -> Sample:
    """One sample of a round; `cpu` in microseconds."""
    return Sample(
        contestant=of,
        connections=width,
        round=number,
        requests=100,
        rate=rate,
        p50=p50,
        p99=0.02,
        cpu=cpu * MICROSECOND,
    )


def steady(of: str, number: int, p50: float, p99: float) -> Steady:
    return Steady(
        contestant=of, round=number, requests=100, offered=500.0, p50=p50, p99=p99, cpu=5e-4
    )


def found(samples: list[Sample], name: str) -> list[Figure]:
    return [each for each in figures(samples, [], ON_A_FILE, []) if each.name == name]


def test_a_machine_that_slows_down_between_rounds_changes_no_figure() -> None:
    """Ratios are taken within a round: the medians of the rates alone would say 1.5."""
    rates = [(3_000.0, 1_000.0), (1_500.0, 500.0), (300.0, 100.0)]
    samples = [
        each
        for number, (ours, theirs) in enumerate(rates)
        for each in (
            sample(STAGE.name, number, ours),
            sample(HANDWRITTEN.name, number, theirs if number else 900.0),
        )
    ]

    (figure,) = found(samples, "P1")

    assert (3.0, 3.0, True) == (figure.value, figure.goal, figure.reached)


def test_the_cost_of_safety_is_in_microseconds() -> None:
    """P12 and P4: processor time more than another contestant of the same round."""
    samples = [
        sample(STAGE.name, 0, 1_000.0, cpu=400.0),
        sample(GROUPED.name, 0, 1_200.0, cpu=300.0),
        sample(TRACED.name, 0, 900.0, cpu=495.0),
    ]

    more, faster = found(samples, "P12")
    traced, _ = found(samples, "P4")

    assert [pytest.approx(100.0), pytest.approx(95.0)] == [more.value, traced.value]
    assert "us" == more.unit and more.reached and not traced.reached
    assert pytest.approx(1_000 / 1_200) == faster.value and not faster.reached


def test_a_figure_needs_both_sides() -> None:
    """No contestant that was left out has one; the lone latency is that of one connection."""
    samples = [sample(STAGE.name, 0, 1_000.0), sample(CEILING.name, 0, 1_250.0)]
    samples += [
        sample(STAGE.name, 0, 500.0, width=LONE, p50=0.0023),
        sample(HANDWRITTEN.name, 0, 900.0, width=LONE, p50=0.0020),
    ]
    names = {each.name: each for each in figures(samples, [], ON_A_FILE, [])}
    assert {"P2", "P3"} == set(names)
    assert 0.8 == names["P2"].value
    assert pytest.approx(1.15) == names["P3"].value


def test_the_tail_is_held_against_the_middle_of_the_same_run() -> None:
    """P13, for those that are asked for."""
    runs = [steady(STAGE.name, 0, 0.002, 0.006), steady(STAGE.name, 1, 0.010, 0.050)]
    runs += [steady(STAGE.name, 2, 0.001, 0.0035), steady(CEILING.name, 0, 0.001, 1.0)]
    (figure,) = figures([], runs, ON_A_FILE, [STAGE])
    assert pytest.approx(3.5) == figure.value
    assert "P13" == figure.name and figure.reached


def test_half_of_the_peak_is_of_the_best_width() -> None:
    """The peak is a median: one lucky round makes none."""
    samples = [sample("a", number, rate) for number, rate in enumerate((90.0, 100.0, 900.0))]
    samples += [sample("a", number, 80.0, width=128) for number in range(3)]
    assert {"a": 100.0} == peak_rates(samples)
    assert 0.5 == SHARE_OF_PEAK


def test_a_saga_that_was_shed_makes_the_tail_no_better() -> None:
    """It counts as the longest wait. A wrong answer ends the measurement."""
    answers = [Answered(latency=0.1, status=status) for status in (200, 503)]
    assert [0.1, ANSWER_SECONDS_MAX] == latencies_of(STAGE, answers)
    assert [0.1] == latencies_of(REFUSED, [Answered(latency=0.1, status=409)])
    with pytest.raises(AnsweredWrongly, match="409: 1"):
        latencies_of(STAGE, [*answers, Answered(latency=0.1, status=409)])


def test_a_load_that_was_answered_wrongly_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under other ids, and it leaves no sample. When it stays so, the measurement ends."""
    wrong = [7, 0, 7, 7, 7]
    runs: list[str] = []

    def offered(*_: object, run: str, **__: object) -> Load:
        runs.append(run)
        return Load(
            requests=100,
            seconds=2.0,
            p50=0.01,
            p90=0.02,
            p99=0.03,
            mean=0.01,
            status_errors=wrong[len(runs) - 1],
            socket_errors=0,
        )

    monkeypatch.setattr(throughput, "offer_to_all", offered)
    samples = throughput.closed_loop("wrk", {STAGE: ()}, widths=[WIDE], rounds=2, seconds=2.0)

    first = next(samples)
    assert (0, 50.0) == (first.round, first.rate)
    with pytest.raises(AnsweredWrongly, match="7 of 100 wrongly"):
        next(samples)
    assert len(wrong) == len(set(runs))


def test_a_span_that_was_not_exported_is_seen() -> None:
    """P4 counts for nothing where a tenth of the sagas was not traced."""
    assert [True, False] == [exported(100, 100).reached, exported(99, 100).reached]


def test_a_file_of_evidence_prints_its_tables_again() -> None:
    """As the page has them: a line for each that was measured, and why one was not."""
    samples = [
        sample(each, 0, 1_000.0, width=width)
        for each in (STAGE.name, HANDWRITTEN.name)
        for width in (LONE, WIDE)
    ]
    runs = [steady(STAGE.name, 0, 0.002, 0.010)]
    shown = figures(samples, runs, ON_A_FILE, [STAGE])
    evidence = {
        "machine": {"cores": 2, "python_build": "no PGO, no LTO"},
        "rounds": 1,
        "titles": {STAGE.name: STAGE.title, HANDWRITTEN.name: HANDWRITTEN.title},
        "figures": [{**asdict(each), "reached": each.reached} for each in shown],
        "samples": raw(samples),
        "steady": raw(runs),
        "not_measured": {"stage-workers-2": "no such option"},
    }

    text = printed(json.loads(json.dumps(evidence)))

    assert f"| {STAGE.title} | 1000/s (1000-1000) | 1000/s (1000-1000) | 10.00 ms" in text
    assert "| throughput against the hand-written handler | 1.00 | >= 3 | **missed** |" in text
    assert f"| {STAGE.title} | 500/s | 2.00 ms | 10.0 ms | 5.0 | 500 us |" in text
    assert "stage-workers-2: not measured: no such option" in text
    assert "python_build no PGO, no LTO" in text


def test_the_comparisons_on_a_server_name_its_contestants(tmp_path: Path) -> None:
    """A name that nobody has would leave a figure out for ever."""
    there: list[Contestant] = [*stages("postgresql://h:1"), dbos("postgresql://h:1", tmp_path)]
    names = {each.name for each in there}
    assert {name for each in ON_A_SERVER for name in (each.this, each.other)} <= names
    assert [2] == [each.replicas for each in there if each.replicas > 1]


def test_the_page_has_the_tables_of_the_evidence() -> None:
    """Line for line, so that a new measurement is not left out of it."""
    page = set((ROOT / "docs" / "performance.md").read_text(encoding="utf-8").splitlines())
    texts = [
        printed(json.loads((EVIDENCE / f"{name}.json").read_text(encoding="utf-8")))
        for name in ("throughput", "postgres")
    ]
    peers = json.loads((EVIDENCE / "peers.json").read_text(encoding="utf-8"))
    texts.append(printed_peers(peers))
    lines = [line for text in texts for line in text.splitlines() if line.startswith("|")]
    assert [] == [line for line in lines if line not in page]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("'--prefix=/x' '--enable-shared'", "no PGO, no LTO"),
        ("'--enable-optimizations' '--with-lto=full'", "PGO, LTO"),
        (None, "not known"),
    ],
)
def test_the_build_of_the_interpreter_is_named_without_its_paths(
    arguments: str | None, expected: str
) -> None:
    """A figure of an interpreter without PGO is not that of one with it."""
    assert expected == build(arguments)


def test_an_option_is_found_where_the_checkout_has_it() -> None:
    """So that what another checkout lacks is left out with its reason."""
    assert has_option("--downstream")
    assert not has_option("--no-such-option")
