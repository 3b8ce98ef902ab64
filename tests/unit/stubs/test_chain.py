"""The two neighbours against each other, without a stage between: both sides of the protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import stage.neighbours.downstream.app
import stage.neighbours.upstream.app
from stage.demo.chain import free_ports
from tests.unit.stubs.conftest import Client, Start
from tests.waits import HANG_SECONDS


@pytest.fixture
async def chain(start: Start) -> tuple[Client, Client]:
    """Head and tail, each with the address of the other."""
    port = free_ports(1)[0]
    tail = await start(
        stage.neighbours.downstream.app.make_app(
            name="shipping", upstream=f"http://127.0.0.1:{port}"
        )
    )
    head = await start(
        stage.neighbours.upstream.app.make_app(
            name="order", stage=str(tail.make_url("/")), budget_seconds=3.0, patience_seconds=0.5
        ),
        port,
    )
    return head, tail


async def seen(client: Client) -> dict[str, Any]:
    """The one saga that a neighbour saw."""
    async with client.get("/sagas") as answer:
        (shown,) = (await answer.json())["sagas"]
        assert isinstance(shown, dict)
        return shown


@pytest.mark.parametrize(
    "script, head_state, executed, standing",
    [
        ({"script": "accept"}, "completed", 1, 1),
        ({"script": "refuse"}, "compensated", 0, 0),
        ({"script": "slow", "seconds": 0.7}, "completed", 1, 1),
        ({"script": "flaky", "seconds": 0}, "completed", 1, 1),
        ({"script": "crash-answer"}, "completed", 1, 1),
        ({"script": "hang"}, "compensated", 0, 0),
        ({"script": "late-failure", "seconds": 0.1}, "compensated", 1, 0),
        ({"script": "late-failure", "seconds": 0.1, "answer": 202}, "compensated", 1, 0),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
async def test_both_ends_agree(
    chain: tuple[Client, Client],
    script: dict[str, Any],
    head_state: str,
    executed: int,
    standing: int,
) -> None:
    """Under every script no effect stands without a completed saga, and none is made twice."""
    head, tail = chain
    async with tail.put("/script", json=script):
        pass

    async with head.post("/orders", json={"order_id": "o-1"}) as answer:
        body = await answer.json()
    async with asyncio.timeout(HANG_SECONDS):
        while head_state != (ours := await seen(head))["state"]:
            pass

    theirs = await seen(tail)
    assert (executed, standing) == (theirs["executed"], theirs["standing"])
    assert ours["trace_id"] == theirs["trace_id"] == body["trace_id"]
    assert ("confirmed" if standing else "released") == ours["order"]
