"""The figures computed from samples of a running process, and from collectors of all sorts."""

from __future__ import annotations

from benchmarks import collectors
from benchmarks.breakdown import REST, counted, part_of
from benchmarks.contestants import STAGE
from benchmarks.throughput import WIDE


def test_a_sample_counts_for_the_innermost_part() -> None:
    """A part owns its calls of the standard library; a call of nobody counts as the rest."""
    stack = (
        "serve (stage/bootstrap.py:1);handle (aiohttp/web_app.py:3);advance (stage/engine/x.py:4)"
    )
    assert "the engine" == part_of(f"{stack};loads (json/decoder.py:5)")
    assert "HTTP in (aiohttp)" == part_of(stack.rpartition(";")[0])
    assert REST == part_of("run (asyncio/runners.py:1)")


def test_the_longest_piece_of_a_path_holds() -> None:
    """Metrics are a part of their own within telemetry."""
    assert "metrics" == part_of("happened (stage/telemetry/metrics.py:9)")
    assert "telemetry, that asks and binds" == part_of("happened (stage/telemetry/compose.py:9)")


def test_samples_are_added_up_by_part() -> None:
    """The last word of a line is how often."""
    lines = ["a (stage/core/machine.py:1) 3", "b (stage/core/saga.py:2) 4", "c (x.py:1) 1"]
    assert {"the machine": 7, REST: 1} == counted(lines)


def test_collectors_are_compared_with_nobody() -> None:
    """A collector that hangs may cost what one costs that is not there, and no more."""
    rates = {
        STAGE.name: 900.0,
        collectors.ANSWERS: 400.0,
        collectors.HANGS: 490.0,
        collectors.NOBODY: 500.0,
    }
    found = {(name, WIDE): {"rate": rate} for name, rate in rates.items()}
    assert 0.98 == collectors.ratios(found)[collectors.HANGS]
