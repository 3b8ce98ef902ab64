"""A stage of one call with a long time-out, for tests that decide how long it takes."""

from __future__ import annotations

import msgspec

from stage import Http, Saga, Stage


class Order(msgspec.Struct):
    """An order."""

    amount: int


payment: Stage[Order, None] = Stage("payment", accepts=Order)


@payment.call(to="psp", timeout=120.0)
async def charge(http: Http, saga: Saga[Order]) -> None:
    """Charge, however long it takes."""
    await http.post("/charges", json={"amount": saga.input.amount})


@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: None) -> None:
    """Refund by the key of the charge."""
    await http.post("/refunds", json={"key": saga.key_of(charge)})


app = payment.app
