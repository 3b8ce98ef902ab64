"""F19, small: what must not be shown is sent everywhere, and looked for everywhere (rule 38)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from stage import Http, Saga, Stage
from stage.telemetry import logs
from stage.testing import SpanCollector
from tests.scenario.attacks.world import running_world
from tests.scenario.chain import Chain

PAYLOAD, HEADER, TEXT = "canary-payload", "canary-header", "canary-text"
CANARIES = (PAYLOAD, HEADER, TEXT)
SAGAS = 24


class Order(msgspec.Struct):
    order_id: str
    card: str
    fails: str = ""


stage: Stage[Order, Any] = Stage("payment", accepts=Order)


def fail(saga: Saga[Order], where: str) -> None:
    if saga.input.fails == where:
        raise ValueError(f"cannot read {TEXT} {saga.input.card}")


@stage.transaction
async def reserve(tx: Any, saga: Saga[Order]) -> None:
    fail(saga, "transaction")
    await tx.execute("SELECT 1")


@stage.call(to="psp", timeout=2.0)
async def charge(http: Http, saga: Saga[Order]) -> Any:
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


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    written, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(format="json", level="debug", stream=written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


async def shown_of(chain: Chain, n: int) -> list[tuple[str, str]]:
    """Every answer that a neighbour gets about one saga."""
    data = {"order_id": "o", "card": PAYLOAD, "fails": FAILS[n % len(FAILS)]}
    headers: dict[str, Any] = {"Authorization": f"Bearer {HEADER}", "baggage": f"card={HEADER}"}
    answer = await chain.send(f"s-{n}", data, Prefer="wait=1", **headers)
    found = [(f"POST s-{n}", f"{answer[1]}{answer[2]!r}")]
    answer = await chain.compensate(f"s-{n}", Prefer="wait=1", **headers)
    found.append((f"compensate s-{n}", f"{answer[1]}{answer[2]!r}"))
    for view in ("", "?view=journal", "?view=plan", "?view=chain"):
        shown = await chain.request("GET", f"{chain.stage}/sagas/s-{n}{view}")
        found.append((f"GET s-{n}{view}", f"{shown[1]}{shown[2]!r}"))
    return found


async def everything_shown(chain: Chain) -> AsyncIterator[tuple[str, str]]:
    """Every answer that a neighbour gets, and the metrics."""
    for of_one in await asyncio.gather(*(shown_of(chain, n) for n in range(SAGAS))):
        for each in of_one:
            yield each
    for wrong in ({"order_id": "o", "card": {"x": PAYLOAD}}, {"card": PAYLOAD}):
        answer = await chain.send("s-wrong", wrong)
        yield "POST wrong", f"{answer[1]}{answer[2]!r}"
    for path in ("/metrics", "/sagas", "/.well-known/stage"):
        shown = await chain.request("GET", f"{chain.stage}{path}")
        yield path, f"{shown[2]!r}"


async def test_canaries_are_shown_nowhere(tmp_path: Path, log: io.StringIO) -> None:
    """Payloads, headers, texts of exceptions: in no answer, line, span or metric. Those of
    credentials have a test of their own (`test_credentials.py`)."""
    spans = SpanCollector()
    options: dict[str, Any] = {"attempts_max": 2, "drain_seconds": 0.1}
    async with running_world(
        tmp_path, stage, downstreams={}, tracer_provider=spans.provider, **options
    ) as (chain, world):
        shown = [each async for each in everything_shown(chain)]
        assert world.seen
    assert [] == [f"{where}: {text[:300]}" for where, text in shown if holds(text)]
    lines = log.getvalue().splitlines()
    assert [] == [line for line in lines if holds(line)][:3]
    assert {"completed", "step_transient"} <= {json.loads(line).get("event") for line in lines}
    assert len(spans) > SAGAS
    assert [] == [repr(span) for span in spans if holds(repr(span))][:3]


def holds(text: str) -> bool:
    return any(canary in text for canary in CANARIES)
