"""Where the time of one saga goes: how long each part of the program has the interpreter.

python -m benchmarks.breakdown [--seconds S]

One thread has the interpreter at a time, so these bound the throughput of a process. py-spy looks
at the running process from outside, without stopping it; a sample counts for the innermost frame
that belongs to a part. The rest of the processor time is spent without the interpreter: in SQLite
and in the kernel.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.__main__ import EVIDENCE, ROOT
from benchmarks.contestants import STAGE, TRACED, Contestant, Place, running
from benchmarks.load import Load, offer
from benchmarks.machine import Missing, check_disk, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.processes import cpu_seconds, free_port
from benchmarks.throughput import WIDE

PARTS = {
    "aiohttp/web": "HTTP in (aiohttp)",
    "aiohttp/client": "HTTP out (aiohttp)",
    "aiohttp/": "HTTP, both (aiohttp)",
    "stage/inbound/": "the endpoint, the envelope, problems",
    "stage/wire/": "the endpoint, the envelope, problems",
    "stage/outbound/": "client, breaker, headers",
    "stage/core/": "the machine",
    "stage/engine/": "the engine",
    "stage/authoring/": "the author's functions and their driver",
    "stage/demo/": "the author's functions and their driver",
    "stage/store/": "the store, and SQLite as far as it holds the interpreter",
    "aiosqlite/": "the store, and SQLite as far as it holds the interpreter",
    "opentelemetry/": "spans, their encoding and export",
    "stage/telemetry/metrics": "metrics",
    "stage/telemetry/meters": "metrics",
    "stage/telemetry/": "telemetry, that asks and binds",
}
"""By a piece of the path of a file; the longest that fits holds."""
REST = "the event loop, threads, and the rest"
RATE = 500


def part_of(stack: str) -> str:
    """The part of a sample: frames from the outermost to the innermost, between semicolons."""
    for frame in reversed(stack.split(";")):
        fitting = [piece for piece in PARTS if piece in frame]
        if fitting:
            return PARTS[max(fitting, key=len)]
    return REST


def counted(lines: Iterable[str]) -> Counter[str]:
    """The samples of each part, from py-spy's raw format: a stack and how often it was seen."""
    counts: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        counts[part_of(stack)] += int(count)
    return counts


def measured(
    each: Contestant, wrk: str, spy: str, url: str, folder: Path, seconds: float
) -> tuple[float, dict[str, float]]:
    """Processor time of a saga, and the time of each part in the interpreter; in seconds."""
    with running(each, Place(folder=folder / each.name, neighbours=url, collector=url)) as service:

        def load(run: str) -> Load:
            return offer(wrk, service.url, connections=WIDE, seconds=seconds, run=run)

        load("warm")
        before = cpu_seconds(service.pid)
        alone = load("alone")
        cpu = (cpu_seconds(service.pid) - before) / alone.requests
        watched = max(1.0, seconds - 2.0)
        raw = folder / f"{each.name}.raw"
        watching = subprocess.Popen(
            [spy, "record", "--gil", "--nonblocking", "--full-filenames", "--pid", str(service.pid),
             "--rate", str(RATE), "--duration", f"{watched:.0f}",
             "--format", "raw", "--output", str(raw)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        sagas = load("watched").rate * watched
        watching.wait()
        counts = counted(raw.read_text().splitlines())
        return cpu, {part: n / RATE / sagas for part, n in counts.most_common()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the evidence."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.breakdown", description=__doc__)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--folder", type=Path, default=ROOT / ".bench", help="on a real disk")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    given = options.parse_args(arguments)
    try:
        wrk, nginx, spy = tool("wrk", "wrk"), tool("nginx", "nginx-light"), shutil.which("py-spy")
        if spy is None:
            raise Missing("py-spy is not installed: pip install py-spy")
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    evidence: dict[str, object] = {"machine": facts(ROOT)}
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        folder = Path(made)
        with neighbours(nginx, folder / "nginx", free_port()) as url:
            for each in (STAGE, TRACED):
                cpu, parts = measured(each, wrk, spy, url, folder, given.seconds)
                print(f"\n{each.title}: {cpu * 1e6:.0f} us of processor time a saga")
                micros = {part: seconds * 1e6 for part, seconds in parts.items()}
                micros["without the interpreter"] = max(0.0, cpu * 1e6 - sum(micros.values()))
                for part, spent in micros.items():
                    print(f"  {spent:5.0f} us  {part}")
                evidence[each.name] = {"cpu_us": cpu * 1e6, "parts_us": micros}
    print(f"written: {report.write(given.out, 'breakdown', evidence)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
