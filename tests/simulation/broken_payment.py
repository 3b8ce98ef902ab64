"""The payment stage of the demo with a refund as it is often written: only of what is known.

A charge whose answer was lost has no result, so this refund takes it for a charge that never was.
`stage simulate` has to find that.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from stage import Http, Refused, Saga, Stage, Transient, Tx, demo
from stage.demo.payment import Charge, Order

payment = Stage(
    "payment",
    accepts=Order,
    adds=Charge,
    migrations=str(Path(demo.__file__).parent / "migrations"),
)


@payment.transaction
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    """As in the demo."""
    if saga.input.amount <= 0:
        raise Refused("the amount must be positive")
    await tx.execute(
        "INSERT INTO payment (saga_id, order_id, amount, currency, state)"
        " VALUES (?, ?, ?, ?, 'pending')",
        saga.id,
        saga.input.order_id,
        saga.input.amount,
        saga.input.currency,
    )


@reserve.compensation
async def release(tx: Tx, saga: Saga[Order]) -> None:
    """As in the demo."""
    await tx.execute("UPDATE payment SET state = 'released' WHERE saga_id = ?", saga.id)


@payment.call(to="psp", timeout=1.0)
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    """As in the demo."""
    answer = await http.post("/charges", json={"amount": saga.input.amount})
    if answer.status in (402, 410):
        raise Refused("card declined")
    return Charge(answer.json()["id"])


@charge.probe
async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
    """As in the demo."""
    answer = await http.get(f"/charges/by-key/{quote(saga.key, safe='')}")
    return None if answer.status == 404 else Charge(answer.json()["id"])


@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
    """The planted mistake: without a charge id there is nothing to refund, it thinks."""
    if made is None:
        return
    answer = await http.post(
        "/refunds", json={"key": saga.key_of(charge), "charge_id": made.charge_id}
    )
    if answer.status == 402:
        raise Refused("the refund was declined")
    if answer.status >= 400:
        raise Transient(f"the refund was answered {answer.status}")


@payment.transaction(compensation=None, reason="no test undoes it")
async def record(tx: Tx, saga: Saga[Order]) -> None:
    """As in the demo."""
    await tx.execute(
        "UPDATE payment SET state = 'charged', charge_id = ? WHERE saga_id = ?",
        saga.result(charge).charge_id,
        saga.id,
    )


@payment.output
def charged(saga: Saga[Order]) -> Charge:
    """As in the demo."""
    return saga.result(charge)
