"""A card payment that waits for its customer: 202 upstream, probes, restarts, an undo meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stage import Http, Pending, Refused, Saga, Stage
from stage.core.errors import DeclarationError
from stage.demo.payment import Order
from tests.scenario.chain import running_chain
from tests.waits import HANG_SECONDS


class Bank:
    """The bank, which waits for its customer."""

    state = "waits"


def stage_of(bank: Bank) -> Stage[Order, Any]:
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", timeout=0.5)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": saga.input.amount})
        raise Pending("the customer confirms")

    @charge.probe
    async def find(http: Http, saga: Saga[Order]) -> str | None:
        answer = await http.get("/charges", params={"key": saga.key})
        if bank.state == "waits":
            raise Pending("the customer confirms")
        if bank.state == "refused":
            raise Refused("not authenticated")
        return f"ch-{answer.status}"

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": None})

    return stage


async def test_upstream_is_answered_202_at_once_and_200_at_the_end(tmp_path: Path) -> None:
    """The caller would have waited for 25 s; one effect stands."""
    bank = Bank()
    async with running_chain(tmp_path, stage=stage_of(bank)) as chain:
        async with asyncio.timeout(HANG_SECONDS):
            assert 202 == (await chain.send("s-1", Prefer="wait=25"))[0]
        assert "pending" == (await chain.view("s-1"))["steps"][0]["phase"]

        bank.state = "done"
        await chain.until("s-1", lambda view: view["state"] == "completed")

        assert 200 == (await chain.send("s-1"))[0]
        assert (1, 1) == await chain.charges()
        assert 1 == (await chain.events("s-1")).count("step_started") - 1  # and the forward's


async def test_a_payment_that_the_customer_fails_is_a_business_no(tmp_path: Path) -> None:
    """Nothing is undone, for nothing stands by the word of the API."""
    bank = Bank()
    async with running_chain(tmp_path, stage=stage_of(bank)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        bank.state = "refused"
        await chain.until("s-1", lambda view: view["state"] == "compensated")
        assert 409 == (await chain.send("s-1"))[0]
        events = await chain.events("s-1")
        assert "probe_refused" in events and "compensation_started" not in events


async def test_a_pending_payment_outlives_its_process(tmp_path: Path) -> None:
    """The next process probes, and does not charge again."""
    bank = Bank()
    async with running_chain(tmp_path, stage=stage_of(bank)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
    bank.state = "done"
    async with running_chain(tmp_path, stage=stage_of(bank)) as chain:
        await chain.until("s-1", lambda view: view["state"] == "completed")
        assert "step_in_doubt" not in await chain.events("s-1")
        assert (0, 0) == await chain.charges()  # of the new API: nothing was asked for again


async def test_a_pending_payment_is_undone_when_upstream_asks(tmp_path: Path) -> None:
    """It does not wait for the customer."""
    async with running_chain(tmp_path, stage=stage_of(Bank())) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        assert (await chain.compensate("s-1"))[0] in (200, 202)
        await chain.until("s-1", lambda view: view["state"] == "compensated")
        assert (1, 0) == await chain.charges()


def test_a_call_that_may_be_pending_needs_a_probe() -> None:
    """Seen at start."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", pending_on={202}, compensation=None, reason="none")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        return "never"

    with pytest.raises(DeclarationError, match=r"has no probe.*@charge\.probe"):
        stage.bind()
