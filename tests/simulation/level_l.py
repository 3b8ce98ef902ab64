"""Level L of F1: many worlds on all cores, and a file that says what came of them.

    make sim SEEDS=20000 [SAGAS=50] [FIRST=0]

The file under docs/evidence/ holds the range of seeds, the commits, the machine, how often each
fault struck and how sagas ended. One seed is replayed with `python -m stage.simulation SEED`.

A violation is shown with the history of its saga as soon as it is found. The counts of each chunk
of seeds are kept in a progress file, so that a run that was stopped goes on where it stood when it
is started again; a chunk in which something did not hold is then run anew. The progress file is
gone once a run has ended without a violation.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from stage.simulation.summary import Summary, failure_of, simulate_many
from stage.simulation.world import Result, Scenario

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / "docs" / "evidence"
PROGRESS = ROOT / ".simulation"
CHUNK_SEEDS = 50


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one range of seeds: a line of a progress file."""

    first: int
    seeds: int
    sagas: int
    """Sagas a seed."""
    commit: str
    seconds: float
    """Of one process."""
    summary: Summary


def chunk(first: int, seeds: int, sagas: int, at: str) -> Chunk:
    """Run one range of seeds, in a process of its own, at a commit."""
    began = time.perf_counter()
    scenario = Scenario(sagas=sagas)
    summary = simulate_many(range(first, first + seeds), scenario, each=show_violation)
    seconds = time.perf_counter() - began
    return Chunk(first=first, seeds=seeds, sagas=sagas, commit=at, seconds=seconds, summary=summary)


def show_violation(result: Result) -> None:
    """Print at once what did not hold in a world, and the history of its saga."""
    if not result.violations:
        return
    failure = failure_of(result)
    head = f"seed {failure.seed} ({failure.chain}): {failure.violation.invariant}"
    text = [f"{head} {failure.violation.saga} {failure.violation.text}", *failure.history]
    print("\n" + "\n".join(text), flush=True)


def kept(path: Path, wanted: Iterable[tuple[int, int]], sagas: int) -> list[Chunk]:
    """The chunks of an earlier run that are wanted, and in which everything held."""
    if not path.exists():
        return []
    ranges = set(wanted)
    chunks = {
        (done.first, done.seeds): done
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")  # the last one may be cut off
        for done in [msgspec.json.decode(line, type=Chunk, dec_hook=_counter)]
        if done.sagas == sagas and not done.summary.violations
    }
    return [done for place, done in sorted(chunks.items()) if place in ranges]


def _counter(kind: Any, counts: Any) -> Any:
    """A Counter, which JSON holds as an object."""
    return kind(counts)


def machine() -> dict[str, Any]:
    """The machine that ran it."""
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit, with `+` when something was changed since."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "stage", "tests/simulation"],
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write(name: str, document: dict[str, Any]) -> Path:
    """Write a result file."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    path = EVIDENCE / name
    body = msgspec.json.format(msgspec.json.encode(document), indent=1)
    path.write_bytes(body + b"\n")
    return path


def _counts(summary: Summary) -> dict[str, Any]:
    """The counts, each in the order of its names; the chains, which are many, come last."""
    counts = msgspec.to_builtins(summary)
    ordered = {
        name: dict(sorted(value.items())) if isinstance(value, dict) else value
        for name, value in counts.items()
    }
    return {**ordered, "chains": ordered.pop("chains")}


def ranges(first: int, seeds: int) -> list[tuple[int, int]]:
    """The first seed and the size of every chunk."""
    last = first + seeds
    return [(start, min(CHUNK_SEEDS, last - start)) for start in range(first, last, CHUNK_SEEDS)]


def simulate(
    wanted: list[tuple[int, int]], sagas: int, processes: int, progress: Path
) -> list[Chunk]:
    """Every chunk that was not done yet, over processes; says how it goes."""
    chunks = kept(progress, wanted, sagas)
    done = {(old.first, old.seeds) for old in chunks}
    at = commit()
    progress.parent.mkdir(parents=True, exist_ok=True)
    progress.write_bytes(b"".join(_line(old) for old in chunks))
    with progress.open("ab") as file, ProcessPoolExecutor(processes) as pool:
        running = [pool.submit(chunk, *place, sagas, at) for place in wanted if place not in done]
        for ended in as_completed(running):
            chunks.append(ended.result())
            file.write(_line(chunks[-1]))
            file.flush()
            _say(chunks, len(wanted))
    return sorted(chunks, key=lambda each: each.first)


def _line(done: Chunk) -> bytes:
    return msgspec.json.encode(done) + b"\n"


def _say(chunks: list[Chunk], whole: int) -> None:
    """One line about how far it is."""
    sagas = sum(each.summary.sagas for each in chunks)
    bad = sum(each.summary.violations for each in chunks)
    line = f"{len(chunks)} of {whole} chunks, {sagas} sagas, {bad} bad"
    print(f"\r{line}", end="", flush=True)


def document(chunks: list[Chunk], when: datetime) -> dict[str, Any]:
    """The result file of a whole run."""
    whole = Summary()
    for each in chunks:
        whole.merge(each.summary)
    seconds = sum(each.seconds for each in chunks)
    return {
        "what": "F1: simulated sagas over seeds, swarm faults, safety then liveness phase",
        "when": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commits": _commits(chunks),
        "machine": machine(),
        "first_seed": chunks[0].first,
        "last_seed": chunks[-1].first + chunks[-1].seeds - 1,
        "sagas_per_seed": chunks[0].sagas,
        "process_seconds": round(seconds, 1),
        "sagas_per_process_second": round(whole.sagas / seconds, 1),
        "violations": whole.violations,
        **_counts(whole),
    }


def _commits(chunks: list[Chunk]) -> dict[str, int]:
    """How many seeds were run at each commit."""
    seeds: dict[str, int] = {}
    for each in chunks:
        seeds[each.commit] = seeds.get(each.commit, 0) + each.seeds
    return seeds


def main() -> int:
    """Exit status 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--sagas", type=int, default=50)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    when = datetime.now(UTC)
    progress = PROGRESS / f"{given.first}-{given.seeds}-{given.sagas}.jsonl"
    wanted = ranges(given.first, given.seeds)
    whole = document(simulate(wanted, given.sagas, given.processes, progress), when)
    if not whole["violations"]:
        progress.unlink()
    path = write("simulation.json", whole)
    print(f"\n{path.relative_to(ROOT)}: {whole['violations']} violations, {whole['sagas']} sagas")
    return 1 if whole["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
