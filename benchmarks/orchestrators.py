"""The callers of a chain side by side: one saga alone, and many begun at once.

python -m benchmarks.orchestrators [--rounds N] [--alone N] [--at-once N] [--from FILE]

The callers are those that tests/acceptance/orchestrators tells its stories to, over the same
services. Beside them stands the work of payment as Temporal's documentation advises to write it,
without a stage. A round starts each of them anew, one after the other. `--from` prints the table of
a file of evidence, and measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks import report
from benchmarks.machine import facts
from benchmarks.processes import ended, free_port, until_listening
from examples.temporal.processes import TemporalServer
from stage.demo.chain import LOOPBACK, url
from tests.acceptance.orchestrators.callers import CALLERS
from tests.acceptance.orchestrators.parts import ORDER, Parts

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
BUDGET_SECONDS = 300.0
"""No deadline may end a saga that is measured."""
NEARLY_ALL = 0.95
PLAIN = "plain"
DOCUMENTED = "documented"
TITLES = {
    PLAIN: "a plain chain",
    "step_functions": "the documents of Step Functions, interpreted here",
    "temporal_engine": "Temporal schedules one stage of it (`--engine temporal`)",
    "temporal": "Temporal drives the chain",
    DOCUMENTED: "the same work as Temporal's documentation advises, without a stage",
}


class Runs(Protocol):
    """It is started, runs sagas, and is stopped; what it does between is measured."""

    async def start(self) -> None:
        """Start everything."""
        ...

    async def stop(self) -> None:
        """Stop everything."""
        ...

    async def run(self, saga_id: str, seconds: float) -> str:
        """Run a saga: its outcome."""
        ...


class Documented:
    """A service whose workflow reserves, charges, records and hands on, each in an activity."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts = Parts(folder, caller="order", door=url(free_port()))
        self._server = TemporalServer(folder)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """See `Runs`. The stage of the parts is not among them."""
        parts = self._parts
        await parts.client.__aenter__()
        await asyncio.gather(self._server.start(), parts.psp.start(), parts.shipping.start())
        await asyncio.to_thread(self._serve)

    def _serve(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.peers.services.temporal_payment"),
                *("--port", str(self._port), "--neighbours", self._parts.psp.url),
                *("--downstream", self._parts.shipping.url, "--server", self._server.address),
                *("--database", str(self._folder / "documented.db"), "--activities", "remote"),
            ],
            cwd=ROOT,
        )
        until_listening(self._port, self._process)

    async def stop(self) -> None:
        """See `Runs`."""
        if self._process is not None:
            await asyncio.to_thread(ended, self._process)
        await self._parts.stop()
        await self._server.kill()

    async def run(self, saga_id: str, seconds: float) -> str:
        """See `Runs`."""
        where = f"http://{LOOPBACK}:{self._port}/sagas"
        data = {"saga_id": saga_id, "data": ORDER}
        reply = await self._parts.client.post(where, data, timeout=seconds)
        return str(msgspec.json.decode(reply.body)["outcome"])


MEASURED: Mapping[str, Callable[[Path], Runs]] = {**CALLERS, DOCUMENTED: Documented}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One caller in one round."""

    caller: str
    round: int
    alone_ms: float
    """The median."""
    rate: float
    """Sagas a second of those that were begun at once."""
    half_ms: float
    """Within this time half of these had ended."""
    nearly_all_ms: float
    """And 95 of a hundred."""


async def measure(name: str, number: int, *, alone: int, at_once: int) -> Sample:
    """Start that caller, run its sagas, and stop it."""
    with tempfile.TemporaryDirectory(prefix="stage-callers-") as folder:
        caller = MEASURED[name](Path(folder))

        async def one(saga_id: str) -> float:
            began = time.perf_counter()
            outcome = await caller.run(saga_id, BUDGET_SECONDS)
            assert outcome == "executed", outcome
            return time.perf_counter() - began

        try:
            await caller.start()
            await one("first")
            took = [await one(f"alone-{each}") for each in range(alone)]
            began = time.perf_counter()
            many = await asyncio.gather(*(one(f"many-{each}") for each in range(at_once)))
            rate = at_once / (time.perf_counter() - began)
        finally:
            await caller.stop()
    return Sample(
        caller=name,
        round=number,
        alone_ms=statistics.median(took) * 1000,
        rate=rate,
        half_ms=statistics.median(many) * 1000,
        nearly_all_ms=sorted(many)[int(len(many) * NEARLY_ALL)] * 1000,
    )


def table(samples: Sequence[Sample]) -> str:
    """Markdown: medians of the rounds, and the medians of each round's ratios to two callers."""
    lines = [
        "| Caller | One saga alone | At once: half, and 95 % | Sagas a second | Against a plain"
    ]
    lines[0] += " chain | Against the work without a stage |"
    lines.append("|---|---|---|---|---|---|")
    for name, title in TITLES.items():
        mine = [each for each in samples if each.caller == name]
        alone, half, nearly_all, rate = (
            statistics.median(getattr(each, what) for each in mine)
            for what in ("alone_ms", "half_ms", "nearly_all_ms", "rate")
        )
        against = " | ".join(ratios(samples, name, other) for other in (PLAIN, DOCUMENTED))
        waits = f"{half:.0f} ms, {nearly_all:.0f} ms"
        lines.append(f"| {title} | {alone:.0f} ms | {waits} | {rate:.1f} | {against} |")
    return "\n".join(lines)


def ratios(samples: Sequence[Sample], name: str, other: str) -> str:
    """How one caller compares with another one, by the median of the rounds; empty for itself."""
    if name == other:
        return ""
    by = {each.round: each for each in samples if each.caller == other}
    mine = [each for each in samples if each.caller == name]
    slower = statistics.median(each.alone_ms / by[each.round].alone_ms for each in mine)
    more = statistics.median(each.rate / by[each.round].rate for each in mine)
    return f"{slower:.2g} times the time, {more:.2g} times the rate"


async def rounds(given: argparse.Namespace) -> list[Sample]:
    """Every caller in every round."""
    samples = []
    for number in range(given.rounds):
        for name in MEASURED:
            sample = await measure(name, number, alone=given.alone, at_once=given.at_once)
            print(sample, flush=True)
            samples.append(sample)
    return samples


def main() -> int:
    """Measure, print the table, and write the evidence."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.orchestrators")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--alone", type=int, default=20)
    options.add_argument("--at-once", type=int, default=30)
    options.add_argument("--out", type=Path, default=EVIDENCE, help="folder for the file")
    options.add_argument("--from", dest="file", type=Path, help="evidence to print again")
    given = options.parse_args()
    if given.file is not None:
        found = msgspec.json.decode(given.file.read_bytes())
        print(table([Sample(**each) for each in found["samples"]]))
        return 0
    machine = facts(ROOT)
    samples = asyncio.run(rounds(given))
    print(f"\n{table(samples)}\n")
    evidence = {"machine": machine, "samples": [asdict(each) for each in samples]}
    print(f"written: {report.write(given.out, 'callers', evidence)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
