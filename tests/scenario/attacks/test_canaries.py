"""F19: what must not be shown is sent everywhere, and looked for everywhere (rule 38)."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.testing import SpanCollector
from tests.kits import Strikes
from tests.scenario.attacks.world import running_world
from tests.scenario.chain import HOST, Chain, running_chain
from tests.sizes import SIZES
from tests.waits import until

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


ASKED = "canary-query"
"""Stands in the query of a request that does not leave."""


def asking() -> Stage[Order, Any]:
    """A stage whose API is asked with something that may not be shown."""
    found: Stage[Order, Any] = Stage("payment", accepts=Order)

    @found.call(to="psp", timeout=0.4, compensation=None, reason="no test undoes it")
    async def quote(http: Http, saga: Saga[Order]) -> object:
        return (await http.get(f"/quotes?card={ASKED}")).json()

    return found


@pytest.mark.parametrize("away", ["refused", "silent"])
async def test_the_query_of_a_request_that_did_not_leave_is_shown_nowhere(
    tmp_path: Path, log: io.StringIO, away: str
) -> None:
    """The port is closed, or a black hole: in no answer, line, span, metric or journal."""
    spans = SpanCollector()
    with socket.socket() as door:
        door.bind((HOST, 0))
        if away == "silent":
            door.listen()  # and never speaks TLS
        scheme = "https" if away == "silent" else "http"
        address = f"{HOST}:{door.getsockname()[1]}"
        options: dict[str, Any] = {"attempts_max": 2, "drain_seconds": 0.1}
        async with running_chain(
            tmp_path,
            stage=asking(),
            tracer_provider=spans.provider,
            **{**options, "downstreams": {}, "externals": {"psp": f"{scheme}://{address}"}},
        ) as chain:
            await chain.send("s-1", {"order_id": "o", "card": ""}, Prefer="respond-async, wait=0")
            url = f"{chain.stage}/sagas/s-1"
            path = f"{url}?view=journal"

            async def attempted() -> bool:
                return b"not sent" in (await chain.request("GET", path))[2]

            await until(attempted)
            views = ("", "?view=journal", "?view=chain", "?view=plan")
            shown = [(await chain.request("GET", url + view))[2].decode() for view in views]
            shown.append((await chain.request("GET", f"{chain.stage}/peers"))[2].decode())
            shown.append((await chain.request("GET", f"{chain.stage}/metrics"))[2].decode())
    why = "not sent: refused" if away == "refused" else "not sent: no connection in time"
    assert why in shown[1] and why in log.getvalue()
    texts = [*shown, log.getvalue(), *(repr(span) for span in spans)]
    assert [] == [text[:300] for text in texts if ASKED in text]
    assert [] == [text[:300] for text in shown if address in text]


def holds(text: str) -> bool:
    return any(canary in text for canary in CANARIES)
