"""Kills at an exact place: strace ends the stage as it enters its n-th fdatasync, pwrite64, sendto.

The reference scenario has three sagas through one real payment stage: one completes, one is
refused downstream, one fails late and travels up. The stage starts on an empty database, so the
first kills fall into its migrations. After the kill the stage is started again, the neighbours do
what the protocol asks of them, and then the books of all must agree.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sqlite3
from asyncio.subprocess import Process
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field

import msgspec

from tests.acceptance.kills.bench import Bench, placing, undoing
from tests.acceptance.kills.http1 import Broken, Message, Peer, request_bytes

NEVER = 60_000
"""More calls than the scenario makes, and not more than strace counts."""
SCENARIO_SECONDS_MAX = 90.0
ASK_SECONDS = 5.0
AGAIN_SECONDS = 0.02
COMPLETES, REFUSED, LATE = SAGAS = ("x-completes", "x-refused", "x-late")
ENDS = {COMPLETES: "completed", REFUSED: "compensated", LATE: "compensated"}


class Stuck(Exception):
    """The scenario did not come to its end; the message holds what is known."""


@dataclass(slots=True)
class Struck:
    """The effect of one kill."""

    syscall: str
    number: int
    killed: bool = False
    """False when the scenario makes fewer calls of that kind."""
    calls: int = 0
    """How many the tracer saw of the thread that makes most."""
    wrong: list[str] = field(default_factory=list)


class Exact:
    """Trials on one bench."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._stage = bench.stage

    async def kill_at(self, syscall: str, number: int) -> Struck:
        """One trial. Raises Stuck, CannotTrace and DidNotStart."""
        struck = Struck(syscall, number)
        trace = self._bench.folder / "strace.txt"
        inject = f"inject={syscall}:signal=KILL:when={number}"
        async with self._bench.neighbours():
            tracer = await self._bench.start_traced(trace, "-e", f"trace={syscall}", "-e", inject)
            keeping = asyncio.create_task(self._keep(tracer, struck))
            try:
                async with asyncio.timeout(SCENARIO_SECONDS_MAX):
                    await self._tell_story(struck)
            except TimeoutError:
                raise Stuck(f"{syscall} {number}: the scenario never ended: {struck}") from None
            finally:
                keeping.cancel()
                with suppress(asyncio.CancelledError):
                    await keeping
                await self._stage.kill()
                await tracer.wait()
        # strace counts the calls of each thread for itself.
        made = re.findall(rf"^(\d+) +{syscall}\(", trace.read_text(), re.MULTILINE)
        struck.calls = max(Counter(made).values(), default=0)
        _judge(self._bench, struck)
        return struck

    async def _keep(self, tracer: Process, struck: Struck) -> None:
        """When the stage dies of the tracer's signal, start it again without one."""
        await self._stage.ended.wait()
        struck.killed = self._stage.ends[-1] == -signal.SIGKILL
        if not struck.killed:
            struck.wrong.append(f"the stage ended by itself with {self._stage.ends[-1]}")
        await tracer.wait()
        await self._stage.start()

    async def _tell_story(self, struck: Struck) -> None:
        """Upstream places three sagas, downstream takes one back, and all come to rest."""
        bodies: dict[str, bytes] = {}
        for saga_id in SAGAS:
            bodies[saga_id] = (await self._until(placing(saga_id), {200, 409})).body
        await self._until(undoing(LATE, by="shipping"), {200})
        for saga_id in SAGAS:
            while True:
                answer = await self._until(request_bytes("GET", f"/sagas/{saga_id}"), {200})
                view = msgspec.json.decode(answer.body)
                told = view.get("told_upstream") in (None, "delivered")
                if view["state"] in ("completed", "compensated") and told:
                    break
                await asyncio.sleep(AGAIN_SECONDS)
        for saga_id in (COMPLETES, REFUSED):
            again = await self._until(placing(saga_id), {200, 409})
            if again.body != bodies[saga_id]:
                struck.wrong.append(f"{saga_id} was answered otherwise when it was asked again")

    async def _until(self, raw: bytes, wanted: set[int]) -> Message:
        """Ask until one of the wanted codes is answered; what else is answered is asked again."""
        peer = Peer(self._bench.port)
        try:
            while True:
                await self._stage.listening.wait()
                with suppress(Broken):
                    answer = await peer.ask(raw, ASK_SECONDS)
                    if answer.status in wanted:
                        return answer
                await asyncio.sleep(AGAIN_SECONDS)
        finally:
            peer.close()


def _judge(bench: Bench, struck: Struck) -> None:
    """All books agree: one charge stands for the saga that completed, none for the others."""
    with closing(sqlite3.connect(bench.database)) as books:
        states = dict(books.execute("SELECT id, state FROM saga"))
        ledger = {
            (saga_id, step): (done, undone)
            for saga_id, step, done, undone in books.execute(
                "SELECT saga_id, step, sum(direction = 1), sum(direction = -1) FROM ledger"
                " GROUP BY saga_id, step"
            )
        }
    with closing(sqlite3.connect(bench.folder / "world.db")) as books:
        world = {
            saga_id: (made, refunded, mismatched)
            for saga_id, made, refunded, mismatched in books.execute(
                "SELECT saga_id, sum(made), sum(refunded), sum(mismatched) FROM charge"
                " GROUP BY saga_id"
            )
        }
    for saga_id, end in ENDS.items():
        stands = int(end == "completed")
        made, refunded, mismatched = world.get(saga_id, (0, 0, 0))
        if states.get(saga_id) != end:
            struck.wrong.append(f"{saga_id} is {states.get(saga_id)}, not {end}")
        if made != 1 or made - refunded != stands or mismatched:
            struck.wrong.append(f"{saga_id}: {made} charges, {refunded} refunded, {mismatched} odd")
        if (saga_id in bench.tail.standing) != bool(stands):
            struck.wrong.append(f"{saga_id} stands downstream: {saga_id in bench.tail.standing}")
        for step in ("reserve", "record"):
            done, undone = ledger.get((saga_id, step), (0, 0))
            if done != 1 or done - undone != stands:
                struck.wrong.append(f"{saga_id}: {step} done {done}, undone {undone}")
    # Whether downstream's request counts as upstream's news is the protocol's: 3.4.
    if LATE not in bench.head.asked_back:
        struck.wrong.append("upstream was not told of the late failure")
