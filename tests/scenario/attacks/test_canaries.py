"""F19: what must not be shown is sent everywhere, and looked for everywhere (rule 38)."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.testing import SpanCollector
from tests.kits import Strikes
from tests.scenario.attacks.world import running_world
from tests.scenario.chain import Chain
from tests.sizes import SIZES

PAYLOAD, HEADER, TEXT = "canary-payload", "canary-header", "canary-text"
REQUESTS_PER_SAGA = 6
AT_ONCE = 50
SAGAS = max(24, SIZES.canaries // REQUESTS_PER_SAGA + 1)
CANARIES = (PAYLOAD, HEADER, TEXT)


class Order(msgspec.Struct):
    order_id: str
    card: str
    fails: str = ""


stage: Stage[Order, Any] = Stage("payment", accepts=Order)


def fail(saga: Saga[Order], where: str) -> None:
    if saga.input.fails == where:
        raise ValueError(f"cannot read {TEXT} {saga.input.card}")


@stage.transaction(compensation=None, reason="no test undoes it")
async def reserve(tx: Any, saga: Saga[Order]) -> None:
    fail(saga, "transaction")
    await tx.execute("SELECT 1")


@stage.call(to="psp", timeout=2.0)
async def charge(http: Http, saga: Saga[Order]) -> object:
    fail(saga, "before")
    answer = await http.post("/do/charge", json={"amount": 1, "note": saga.input.card})
    fail(saga, "behind")
    return answer.json()


@charge.compensation
async def refund(http: Http, saga: Saga[Order], found: Any) -> None:
    fail(saga, "refund")
    await http.post("/undo/charge", json={})


@stage.output
def added(saga: Saga[Order]) -> Any:
    fail(saga, "output")
    return {"ok": True}


FAILS = ("", "transaction", "before", "behind", "refund", "output")


async def shown_of(chain: Chain, number: int) -> list[tuple[str, str]]:
    """Every answer that a neighbour and an operator get about one saga."""
    saga_id, fails = f"s-{number}", FAILS[number % len(FAILS)]
    data = {"order_id": "o", "card": PAYLOAD, "fails": fails}
    headers: dict[str, Any] = {"Authorization": f"Bearer {HEADER}", "baggage": f"card={HEADER}"}
    answers = [
        await chain.send(saga_id, data, Prefer="wait=1", **headers),
        await chain.compensate(saga_id, Prefer="wait=1", **headers),
    ]
    url = f"{chain.stage}/sagas/{saga_id}"
    views = ("", "?view=journal", "?view=plan", "?view=chain")
    answers += [await chain.request("GET", url + view) for view in views]
    return [(saga_id, f"{headers}{body!r}") for _, headers, body in answers]


async def everything_shown(chain: Chain) -> AsyncIterator[tuple[str, str]]:
    """Every answer about every saga, and the metrics."""
    for begin in range(0, SAGAS, AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, SAGAS))
        for shown in await asyncio.gather(*(shown_of(chain, number) for number in numbers)):
            for each in shown:
                yield each
    for wrong in ({"order_id": "o", "card": {"x": PAYLOAD}}, {"card": PAYLOAD}):
        answer = await chain.send("s-wrong", wrong)
        yield "POST wrong", f"{answer[1]}{answer[2]!r}"
    for path in ("/metrics", "/sagas", "/.well-known/stage"):
        _, _, body = await chain.request("GET", f"{chain.stage}{path}")
        yield path, f"{body!r}"


@pytest.mark.kit("F19")
@pytest.mark.timeout(1_200)
async def test_canaries_are_shown_nowhere(
    tmp_path: Path, log: io.StringIO, strikes: Strikes
) -> None:
    """Payloads, headers, texts of exceptions: in no answer, line, span or metric. Those of
    credentials have a test of their own (`test_credentials.py`)."""
    spans = SpanCollector()
    options: dict[str, Any] = {"attempts_max": 2, "drain_seconds": 0.1}
    async with running_world(
        tmp_path, stage, downstreams={}, tracer_provider=spans.provider, **options
    ) as (chain, world):
        shown = [each async for each in everything_shown(chain)]
        assert world.seen
    lines = log.getvalue().splitlines()
    wrong = [text for text in (*(text for _, text in shown), *lines) if holds(text)]
    strikes.report("requests", len(shown), violations=len(wrong))
    assert [] == [f"{where}: {text[:300]}" for where, text in shown if holds(text)]
    assert [] == [line for line in lines if holds(line)][:3]
    assert {"completed", "step_transient"} <= {json.loads(line).get("event") for line in lines}
    assert len(spans) > SAGAS
    assert [] == [repr(span) for span in spans if holds(repr(span))][:3]


def holds(text: str) -> bool:
    return any(canary in text for canary in CANARIES)
