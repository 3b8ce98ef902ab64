"""The payment stage with an external API that may take its time: 30 s instead of 1 s."""

from __future__ import annotations

from pathlib import Path

from stage import Saga, Stage
from stage.authoring import Http, Tx
from stage.demo import payment as demo
from stage.demo.payment import Charge, Order

deferrable = Stage(
    "patient",
    accepts=Order,
    adds=Charge,
    migrations=Path(demo.__file__).with_name("migrations"),
)


@deferrable.transaction(compensation=None, reason="no test undoes it")
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    """Write the payment down before anything leaves."""
    await tx.execute(
        "INSERT INTO payment (saga_id, order_id, amount, currency, state)"
        " VALUES (?, ?, ?, ?, 'pending')",
        saga.id,
        saga.input.order_id,
        saga.input.amount,
        saga.input.currency,
    )


@deferrable.call(to="psp", timeout=30.0, compensation=None, reason="no test undoes it")
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    """Charge the card, and wait."""
    answer = await http.post("/charges", json={"amount": saga.input.amount})
    return Charge(answer.json()["id"])


@deferrable.transaction(compensation=None, reason="no test undoes it")
async def record(tx: Tx, saga: Saga[Order]) -> None:
    """Write down what was charged."""
    await tx.execute(
        "UPDATE payment SET state = 'charged', charge_id = ? WHERE saga_id = ?",
        saga.result(charge).charge_id,
        saga.id,
    )


@deferrable.output
def charged(saga: Saga[Order]) -> Charge:
    """The charge, for the stages behind this one."""
    return saga.result(charge)
