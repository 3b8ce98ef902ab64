"""The primary is lost under load and its standby takes over (F26).

With synchronous replication everything that was answered is there. With asynchronous replication
the standby lacks the last commits: the replicas see it and refuse it, until an operator accepts
the database as a restored one and has it reconciled with the neighbours.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import msgspec

from stage.core.lost import TURNED
from stage.wire.envelope import format_instant
from tests.acceptance.kills import books as bookkeeping
from tests.acceptance.kills.http1 import Broken, Peer, request_bytes
from tests.acceptance.kills.load import Load, Placed
from tests.acceptance.replicas import database
from tests.acceptance.replicas.pair import Pair, running_pair
from tests.acceptance.replicas.trial import APART_SECONDS, REPLICAS, Replicas, Trial

STAGE = "tests.acceptance.kills.stages:payment"
PARTED_SAGAS = 5
"""So many sagas, which the standby never gets, are answered before the primary is lost."""
LIMIT_SECONDS = 60.0
SAGAS_MAX = 5_000
"""A slow machine has begun many sagas when the first end; it is offered more until new ones come
to the server that took over."""
RECONCILED_MAX = 20
NOT_ASKED = "was not asked"
OLDER = "an older state of the database"
DIFFERS = re.compile(r"saga (\S+) is completed here, and \S+ says compensated")
TURNED_BACK = """
SELECT saga_id FROM stage.journal
WHERE name = 'compensation_requested' AND position($1::bytea IN event) > 0
"""
"""Sagas that were under way when their last commits were lost: they go back (decision 0050)."""
PARKED = "SELECT id FROM stage.saga WHERE parked <> ''"


@dataclass(slots=True)
class Outcome:
    """The result of one failover."""

    away_seconds: float = 0.0
    """From the loss of the primary until a saga was written to the other server."""
    lost: int = 0
    """Sagas that order was answered for and that the new primary does not have."""
    noticed: bool = False
    """The replicas refused the new primary as an older state."""
    adopted: int = 0
    """Lost sagas that the neighbours gave back."""
    broken: list[str] = field(default_factory=list)


async def fail_over(trial: Trial, *, synchronous: bool) -> Outcome:
    """Run one failover on servers of its own and read the books."""
    async with running_pair(synchronous=synchronous) as pair:
        chain = Replicas(trial, pair.url)
        load = Load(chain.ports["client-order"], chain.ports["shipping"], trial.seed, trial.rate)
        try:
            await chain.start()
            return await _run(trial, chain, load, pair, synchronous=synchronous)
        finally:
            await load.close()
            await chain.close()


async def _run(
    trial: Trial, chain: Replicas, load: Load, pair: Pair, *, synchronous: bool
) -> Outcome:
    outcome = Outcome()
    offering = asyncio.create_task(load.offer(SAGAS_MAX))
    while load.finished < trial.sagas / 3:  # noqa: ASYNC110 - the load has no event for it
        await asyncio.sleep(0.05)
    as_of = time.time()
    if not synchronous:
        await pair.part()
        await _answered_beyond(load)
    began = time.monotonic()
    await pair.fail_over()
    adopted: list[str] = []
    undone: list[str] = []
    if synchronous:
        await _written_again(chain.url, trial)
        outcome.away_seconds = round(time.monotonic() - began, 1)
        await _stop_at(load, trial.sagas)
    else:
        stopping = asyncio.create_task(_stop_at(load, trial.sagas))
        outcome.noticed = await _refused(chain)
        load.stop()
        await stopping
        outcome.lost = await _lost(chain.url, load.placed)
        adopted, undone = await _reconciled(chain, as_of)
        outcome.adopted = len(adopted)
    await offering
    if await chain.rest(load) is None:
        outcome.broken.append("never at rest")
    await database.copy(chain.url, trial.folder / "payment.db")
    turned = await _turned_back(chain.url)
    of_the_loss = None if synchronous else frozenset((*adopted, *undone, *turned))
    outcome.broken += _broken(trial, load.placed, of_the_loss)
    return outcome


async def _answered_beyond(load: Load) -> None:
    """Return when enough of the sagas that are placed from now on were answered 200."""
    before = len(load.placed)
    async with asyncio.timeout(LIMIT_SECONDS):
        while sum(1 for each in load.placed[before:] if each.status == 200) < PARTED_SAGAS:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _stop_at(load: Load, sagas: int) -> None:
    """Have the load offer no more once so many are placed, or it was stopped."""
    while len(load.placed) < sagas and not load.stopped:  # noqa: ASYNC110 - no event for it
        await asyncio.sleep(0.05)
    load.stop()


async def _written_again(url: str, trial: Trial) -> None:
    """Return when a saga that was placed after the failover has come to payment."""
    async with asyncio.timeout(LIMIT_SECONDS):
        connection = await asyncpg.connect(f"{url}?target_session_attrs=read-write")
        before = await connection.fetchval("SELECT count(*) FROM stage.saga")
        while await connection.fetchval("SELECT count(*) FROM stage.saga") == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await connection.close()


async def _refused(chain: Replicas) -> bool:
    """Whether every replica says that it refuses the server, and why."""
    logs = [Path(chain.log(name)) for name in REPLICAS]
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not all(OLDER in log.read_text() for log in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    except TimeoutError:
        return False
    return True


async def _lost(url: str, placed: list[Placed]) -> int:
    """How many sagas that were answered 200 the new primary does not have."""
    connection = await asyncpg.connect(f"{url}?target_session_attrs=read-write")
    known = {row[0] for row in await connection.fetch("SELECT id FROM stage.saga")}
    await connection.close()
    return sum(1 for each in placed if each.status == 200 and each.saga_id not in known)


async def _reconciled(chain: Replicas, as_of: float) -> tuple[list[str], list[str]]:
    """The work of an operator: accept, ask the neighbours, release, undo all that may stand.

    Sagas that were adopted, and sagas whose undo was lost.
    """
    await asyncio.gather(*(replica.stop() for replica in chain.replicas))
    await _command("db", "restored", STAGE, "--database", chain.url, "--as-of", _shown(as_of))
    words = chain.settings
    options = zip(words[::2], words[1::2], strict=True)
    neighbours = [word for each in options if each[0] != "--external" for word in each]
    shown = await _asked(*neighbours)
    await _command("db", "released", STAGE, *neighbours, "--reason", "all were asked")
    await asyncio.gather(*(replica.start() for replica in chain.replicas))
    connection = await asyncpg.connect(f"{chain.url}?target_session_attrs=read-write")
    parked = [row[0] for row in await connection.fetch(PARKED)]
    await connection.close()
    peer = Peer(chain.ports[REPLICAS[0]])
    # One that both neighbours have undone was undone here too, and that was lost.
    undone = dict.fromkeys(DIFFERS.findall(shown))
    for saga_id in (*parked, *undone):
        await _undone(peer, saga_id)
    peer.close()
    return parked, list(undone)


async def _turned_back(url: str) -> list[str]:
    connection = await asyncpg.connect(f"{url}?target_session_attrs=read-write")
    try:
        return [row[0] for row in await connection.fetch(TURNED_BACK, TURNED.encode())]
    finally:
        await connection.close()


async def _undone(peer: Peer, saga_id: str) -> None:
    body = msgspec.json.encode({"requested_by": "operator", "reason": "lost in a failover"})
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                raw = request_bytes("POST", f"/sagas/{saga_id}/compensate", body)
                if (await peer.ask(raw, 10.0)).status == 200:
                    return
            except Broken:
                pass
            await asyncio.sleep(0.2)


async def _asked(*neighbours: str) -> str:
    """The output of `stage reconcile`, run again while the network keeps a neighbour from it."""
    shown = ""
    for _ in range(RECONCILED_MAX):
        status, out = await _ended("reconcile", STAGE, *neighbours)
        shown += out
        if status == 0:
            return shown
        assert NOT_ASKED in out, out
    raise AssertionError(f"a neighbour was not asked in {RECONCILED_MAX} runs: {shown}")


async def _command(*words: str) -> str:
    """The output of the command, which must not fail."""
    status, out = await _ended(*words)
    assert status == 0, f"stage {' '.join(words)}: {out}"
    return out


async def _ended(*words: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "stage", *words, stdout=PIPE, stderr=STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


def _shown(at: float) -> str:
    return format_instant(at)


def _broken(trial: Trial, placed: list[Placed], undone: frozenset[str] | None) -> list[str]:
    """All that is wrong in the books; `undone` are the sagas of a loss, None where none was."""
    read = bookkeeping.check(trial.folder, placed, apart_seconds=APART_SECONDS)
    return [
        f"{each.promise}: {each.saga_id}: {each.what}"
        for each in read.violations
        if undone is None or not _of_the_loss(each, undone)
    ]


def _of_the_loss(violation: bookkeeping.Violation, undone: frozenset[str]) -> bool:
    """Whether it says no more than what was lost: an undo that came again, or an author's row."""
    if violation.promise == "order":
        return True
    rows = violation.what.startswith("payment: re")
    return violation.saga_id in undone and (violation.promise == "lost" or rows)
