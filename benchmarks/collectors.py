"""The cost of a collector that answers, of one that hangs, of none that listens; and no tracing.

python -m benchmarks.collectors [--rounds N] [--seconds S]
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import report
from benchmarks.__main__ import EVIDENCE, ROOT
from benchmarks.contestants import STAGE, Contestant, stage_command
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.processes import LOOPBACK, free_port
from benchmarks.throughput import WIDE, measure, medians, raw

ANSWERS, HANGS, NOBODY = "traced-answers", "traced-hangs", "traced-nobody"
GOAL = 0.95


@contextmanager
def hanging() -> Iterator[str]:
    """The URL of a collector that takes connections and never reads what is sent."""
    with socket.create_server((LOOPBACK, 0), backlog=64) as door:
        yield f"http://{LOOPBACK}:{door.getsockname()[1]}"


def traced(name: str, title: str, url: str) -> Contestant:
    """The stage, every saga traced, its spans sent there."""
    return Contestant(
        name=name,
        title=title,
        command=lambda place, port: stage_command(
            place, port, "--log-level", "warning", "--otlp-endpoint", url
        ),
        environment={},
    )


def ratios(found: Mapping[tuple[str, int], Mapping[str, float]]) -> dict[str, float]:
    """Throughput with each collector, against one where nobody listens."""
    nobody = found[NOBODY, WIDE]["rate"]
    return {name: found[name, WIDE]["rate"] / nobody for name in (HANGS, ANSWERS, STAGE.name)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the evidence; 0 whatever the figures are."""
    # Long because a measurement is its steps in their order: prepare, measure, write down.
    options = argparse.ArgumentParser(prog="python -m benchmarks.collectors", description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=5.0)
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    given = options.parse_args(arguments)
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=given.folder) as made, hanging() as never:
        folder = Path(made)
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            contestants = (
                STAGE,
                traced(ANSWERS, "traced, the collector answers", url),
                traced(HANGS, "traced, the collector hangs", never),
                traced(NOBODY, "traced, nobody listens", f"http://{LOOPBACK}:{free_port()}"),
            )
            samples = list(
                measure(
                    wrk, url, folder, widths=[WIDE], rounds=given.rounds, seconds=given.seconds,
                    contestants=contestants,
                )
            )  # fmt: skip
    found = medians(samples)
    for each in contestants:
        print(f"{each.title:32} {found[each.name, WIDE]['rate']:6.0f}/s")
    reached = ratios(found)
    print(f"hanging against nobody: {reached[HANGS]:.2f}, goal >= {GOAL}")
    evidence = {
        "machine": facts(ROOT),
        "rounds": given.rounds,
        "seconds": given.seconds,
        "against nobody": reached,
        "samples": raw(samples),
    }
    print(f"written: {report.write(given.out, 'collectors', evidence)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
