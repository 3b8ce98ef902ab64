"""`python -m benchmarks.console`: how long each page of the console takes on a full database.

python -m benchmarks.console [--finished N] [--parked N] [--times N] [--folder F] [--out F]

Two real sagas, one that completed and one that could not be undone, are copied into the database
of a stopped stage (benchmarks.growth.filling). Then each page is asked for, one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

import aiohttp

from benchmarks import report
from benchmarks.growth.filling import fill, uuid7
from benchmarks.machine import Missing, check_disk, facts
from stage.demo.chain import Chain, Service
from stage.demo.client import Client
from stage.wire.envelope import format_instant

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
GOAL_SECONDS = 0.3
DAY = 86_400.0
FINISHED_DAYS, PARKED_DAYS = 6.0, 0.5
STAGE = "benchmarks.services.shown:payment"


@dataclass(frozen=True, slots=True)
class Page:
    """A page with its times in seconds. `status` is the highest code that it was answered with."""

    name: str
    path: str
    status: int
    p50: float
    p95: float
    most: float
    bytes: int


def main() -> int:
    """Measure and write the evidence; 1 where a page is slower than the goal."""
    given = _options().parse_args()
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
        check_disk(given.folder)
    except Missing as missing:
        print(f"console: {missing}", file=sys.stderr)
        return 2
    machine = facts(ROOT)
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        pages = asyncio.run(_measured(Path(made), given.finished, given.parked, given.times))
    for page in pages:
        print(f"{page.name:<34} {page.status} {page.p50 * 1e3:6.0f} {page.p95 * 1e3:6.0f} ms")
    slow = [page for page in pages if page.p95 > GOAL_SECONDS or page.status >= 400]
    evidence = {
        "machine": machine,
        "finished": given.finished,
        "parked": given.parked,
        "times": given.times,
        "goal_seconds": GOAL_SECONDS,
        "slower": [page.name for page in slow],
        "pages": [asdict(page) for page in pages],
    }
    print(f"written: {report.write(given.out, 'console', evidence)}")
    return 1 if slow else 0


async def _measured(folder: Path, finished: int, parked: int, times: int) -> list[Page]:
    database, chain = folder / "payment.db", Chain(folder)
    chain.payment = _serving(chain, folder, database)
    dice = random.Random(0)
    done, stuck = (uuid7(int(time.time() * 1e3), dice) for _ in range(2))
    try:
        await chain.start()
        async with Client(chain.payment.url, chain.keys) as client:
            await _lived(chain, client, done, stuck)
        await chain.payment.terminated()
        copied = ((done, finished, FINISHED_DAYS), (stuck, parked, PARKED_DAYS))
        for template, sagas, days in copied:
            took = await asyncio.to_thread(
                fill, database, template, sagas, over_seconds=days * DAY, seed=sagas
            )
            print(f"{sagas} copies in {took:.0f} s", flush=True)
        await chain.payment.start()
        shown = aiohttp.encode_basic_auth("kim", chain.keys.token("operator"))
        async with aiohttp.ClientSession(headers={"Authorization": shown}) as session:
            await _swept(session, chain, stuck)
            return [
                await _timed(session, chain, name, path, times)
                for name, path in _pages(done, stuck).items()
            ]
    finally:
        await chain.stop()


def _serving(chain: Chain, folder: Path, database: Path) -> Service:
    """The stage of the chain, with members that it shows and a number that it indexes."""
    arguments = [
        *("stage", "serve", STAGE, "--database", f"sqlite:///{database}"),
        *("--upstream", f"order={chain.order.url}"),
        *("--downstream", f"shipping={chain.gateway.url}"),
        *("--external", f"psp={chain.psp.url}"),
        *chain.keys.of_stage(),
    ]
    return Service("payment", chain.payment.port, arguments, folder / "payment.log")


async def _lived(chain: Chain, client: Client, done: str, stuck: str) -> None:
    """One saga completes, and the refund of the other is declined for good."""
    for saga_id in (done, stuck):
        order = {"order_id": saga_id, "amount": 1_250, "currency": "KRW"}
        reply = await client.post(f"{chain.order.url}/orders", order, {"Saga-Id": saga_id})
        assert reply.status == 200, reply.body
    await client.script(chain.psp, {"script": "refund-fails"})
    asked = {"requested_by": "order", "reason": "withdrawn"}
    await client.post(f"{chain.payment.url}/sagas/{stuck}/compensate", asked)
    await client.until(chain.payment, stuck, lambda saga: bool(saga["parked"]))


async def _swept(session: aiohttp.ClientSession, chain: Chain, stuck: str) -> None:
    """A sweep of all that is parked, stopped soon, so that its page and the audit have rows."""
    token = {"Authorization": f"Bearer {chain.keys.token('operator')}"}
    order = {"verb": "retry", "reason": "x", "where": {"parked": "true"}, "rate_per_second": 50}
    async with aiohttp.ClientSession(headers=token) as operator:
        async with operator.post(f"{chain.payment.url}/sweeps", json=order) as response:
            assert response.status == 200, await response.text()
        await asyncio.sleep(5.0)
        async with operator.post(
            f"{chain.payment.url}/sweeps/1/stop", json={"reason": "enough"}
        ) as response:
            assert response.status == 200, await response.text()


def _pages(done: str, stuck: str) -> Mapping[str, str]:
    now = time.time()
    at = now - 2 * DAY
    hour = {"changed_from": format_instant(at), "changed_before": format_instant(at + 3_600)}
    since = {"changed_from": format_instant(now - 3_600)}
    before = {"changed_before": format_instant(now - 5 * DAY)}
    cause = {"parked": "true", "cause": "failed_to_compensate", "peer": "externals.psp"}
    half = uuid7(int((now - PARKED_DAYS * DAY / 2) * 1e3), random.Random(1))
    return {
        "Now": "",
        "Parked": "/parked",
        "Parked, one cause and peer": f"/parked?{urlencode(cause)}",
        "Parked, a page in the midst": f"/parked?{urlencode({**cause, 'after': half})}",
        "Parked, none that fits": f"/parked?{urlencode({**cause, 'step': 'none'})}",
        "Parked, older than an hour": "/parked?parked=true&older_than=3600",
        "Parked, completed ones": "/parked?state=completed",
        "Parked, all that changed in an hour": f"/parked?{urlencode(hour)}",
        "Parked, all that changed since": f"/parked?{urlencode(since)}",
        "Parked, all that changed before": f"/parked?{urlencode(before)}",
        "Parked, by a business number": f"/parked?{urlencode({'number': 'order:' + stuck})}",
        "Saga, parked": f"/sagas/{stuck}",
        "Saga, completed": f"/sagas/{done}",
        "Chain": f"/sagas/{done}/chain",
        "Peers": "/peers",
        "Audit": "/audit",
        "Audit of a saga": f"/audit?target={stuck}",
        "a sweep": "/sweeps/1",
        "Reconcile": "/reconcile",
        "search by id": f"/search?q={done}",
        "live": "/live",
    }


async def _timed(
    session: aiohttp.ClientSession, chain: Chain, name: str, path: str, times: int
) -> Page:
    taken: list[float] = []
    status = size = 0
    for _ in range(times):
        began = time.perf_counter()
        async with session.get(f"{chain.payment.url}/console{path}") as response:
            size = len(await response.read())
            status = max(status, response.status)
        taken.append(time.perf_counter() - began)
        if path == "/live":
            await asyncio.sleep(0.2)  # beyond 40 in five seconds a page is told to stop
    taken.sort()
    p95 = taken[min(len(taken), math.ceil(0.95 * len(taken))) - 1]
    return Page(name, path, status, median(taken), p95, taken[-1], size)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--parked", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench")
    parser.add_argument("--out", type=Path, default=EVIDENCE)
    return parser


if __name__ == "__main__":
    sys.exit(main())
