"""Every saga has a whole trace, whatever is killed: real processes and kills (F16, I12)."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.stories import order_of
from stage.testing import Spans
from tests.acceptance.collector import Collector, lost_spans
from tests.kits import Strikes

SEED = 20261123
SAGAS = 60
KILLS = 4
BATCH_DELAY_MS = 100
STORIES: dict[str, tuple[str, dict[str, Any]]] = {
    "well": ("", {}),
    "refused": ("shipping", {"script": "refuse"}),
    "late": ("shipping", {"script": "late-failure", "seconds": 0.2}),
    "doubt": ("psp", {"script": "effect-then-drop", "times": 2}),
    "slow": ("shipping", {"script": "slow", "seconds": 0.3}),
}
GET_SAGA = "GET /sagas/{saga_id}"
"""The queries of this test are no part of a saga."""
OVER = ("completed", "compensated")


class Kept(msgspec.Struct, frozen=True):
    """One saga in the books of the stage when all is over."""

    saga_id: str
    trace_id: str
    journal: list[dict[str, Any]]

    @property
    def stored(self) -> list[str]:
        """The span ids of its attempts, each durable before the attempt left."""
        return [entry["span"] for entry in self.journal if entry.get("span")]

    @property
    def ended_at(self) -> float:
        """When the last thing happened to it, in seconds since the epoch."""
        return datetime.fromisoformat(self.journal[-1]["at"]).timestamp()

    @property
    def recovered(self) -> bool:
        """True when a run was lost and another took it over."""
        return any(entry["event"] == "recovered" for entry in self.journal)


def wrong_with(saga: Kept, spans: Spans, *, unsent: bool) -> list[str]:
    """The reasons why the trace of a saga is not whole; `spans` are all that were reported.

    A span that a killed process had not sent is lost, but never its id: whatever links to it names
    an attempt of the journal. `unsent` says that the end of the saga may be lost so.
    """
    of_trace = spans.where(lambda span: span.trace_id == saga.trace_id)
    own = spans.where(lambda span: span["saga_id"] == saga.saga_id and span.name != GET_SAGA)
    wrong = [f"{span} is in trace {span.trace_id}" for span in own if span not in list(of_trace)]
    ids = Counter(span.span_id for span in of_trace)
    wrong += [
        f"{span_id} was reported {count} times" for span_id, count in ids.items() if count > 1
    ]
    known = {*ids, *saga.stored}
    for span in of_trace:
        wrong += [
            f"{span} links to {link}, which is nothing of this saga"
            for trace_id, link in span.links
            if trace_id != saga.trace_id or link not in known
        ]
    attempts = {span.span_id: span for span in own if span["attempt"] is not None}
    wrong += [f"{span} is no attempt of the journal" for i, span in attempts.items() if i not in
              saga.stored]  # fmt: skip
    wrong += [
        f"{span} links to nothing"
        for span in attempts.values()
        if not span.links and (span["activity"] == "compensate" or span["activity"] == "probe")
    ]
    if unsent or not saga.stored:  # buried before anything of it was sent
        return wrong
    if saga.recovered and not any(run.links for run in own.all("saga payment")):
        wrong.append("no run says what it continues")
    if saga.stored[-1] not in attempts:
        wrong.append("how it ended was not reported")
    return wrong


@pytest.mark.kit("F16")
@pytest.mark.timeout(110)
async def test_every_trace_is_whole_under_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strikes: Strikes
) -> None:
    """All of them, the recovered and the compensated ones too; how many of each is counted."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", str(BATCH_DELAY_MS))
    dice = random.Random(SEED)
    collector = Collector()
    async with TestServer(collector.app, host="127.0.0.1") as server:
        chain = Chain(tmp_path, otlp=f"http://127.0.0.1:{server.port}")
        try:
            await chain.start()
            async with Client(chain.payment.url, chain.keys) as client:
                sagas, kills = await tell(chain, client, dice)
        finally:
            await chain.stop()
    assert (SAGAS, KILLS) == (len(sagas), len(kills))
    wrong: dict[str, list[str]] = {}
    whole: Counter[str] = Counter()
    lost = lost_spans(collector, "payment", kills)
    for saga in sagas:
        unsent = any(since <= saga.ended_at <= kill for since, kill in lost)
        if found := wrong_with(saga, collector, unsent=unsent):
            wrong[saga.saga_id] = found
        elif not unsent:
            whole["recovered"] += saga.recovered
            whole["compensated"] += saga.journal[-1]["event"] != "completed"
    strikes.report("kills of the demo", len(kills), violations=len(wrong), seed=SEED)
    assert {} == wrong
    # It struck: runs were lost, attempts were cut off, and there was something to undo.
    whole["cut off"] = len(collector.all(outcome="cut_off"))
    assert min(whole.values()) >= KILLS, whole


async def tell(chain: Chain, client: Client, dice: random.Random) -> tuple[list[Kept], list[float]]:
    """Place all orders while the stage is killed now and then; the books, and when it was."""
    kills: list[float] = []
    services = {service.name: service for service in chain.services}
    for name, script in STORIES.values():
        if name:
            match = next(key for key, found in STORIES.items() if found[1] is script)
            await client.script(services[name], {**script, "match": f"{match}-"})
    ids = [f"{dice.choice(list(STORIES))}-{number:03}" for number in range(SAGAS)]
    placing = []
    for number, saga_id in enumerate(ids):
        placing.append(asyncio.create_task(place(chain, client, saga_id)))
        await asyncio.sleep(0.01)  # they are under way at the same time, and not all at once
        if number % (SAGAS // KILLS) == SAGAS // KILLS - 1:
            kills.append(time.time())
            await chain.payment.kill()
            await chain.payment.start()
    await asyncio.gather(*placing)
    return [await kept(chain, client, saga_id) for saga_id in ids], kills


async def place(chain: Chain, client: Client, saga_id: str) -> None:
    """Post an order; its outcome is asked for later."""
    about = {"Saga-Id": saga_id, "Prefer": "respond-async"}
    await client.post(f"{chain.order.url}/orders", order_of(saga_id), about, timeout=30.0)


async def kept(chain: Chain, client: Client, saga_id: str) -> Kept:
    """The books of one saga, once order and payment are done with it."""

    def over(saga: Mapping[str, Any]) -> bool:
        late = saga_id.startswith("late-")
        return saga["state"] == "compensated" if late else saga["state"] in OVER

    await client.until(chain.order, saga_id, over)
    await client.until(
        chain.payment,
        saga_id,
        lambda saga: over(saga) and saga["told_upstream"] in (None, "no", "delivered"),
    )
    saga = await client.saga(chain.payment, saga_id)
    assert saga is not None
    return Kept(saga_id, saga["trace_id"], await client.journal(chain.payment, saga_id))
