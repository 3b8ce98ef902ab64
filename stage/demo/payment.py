"""The example stage: reserve in the database, charge through an API, record, hand on."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from stage import Http, Landed, Pending, Refused, Saga, Stage, Transient, Tx, Webhook


class Order(msgspec.Struct):
    """The order, as upstream hands it over."""

    order_id: str
    amount: int
    currency: str


class Charge(msgspec.Struct):
    """The charge, which this stage adds to the context."""

    charge_id: str


payment = Stage("payment", accepts=Order, adds=Charge, migrations="migrations")


@payment.transaction
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    """Write the payment down before anything leaves."""
    if saga.input.amount <= 0:
        raise Refused("the amount must be positive")
    await tx.execute(
        "INSERT INTO payment (saga_id, order_id, amount, currency, state)"
        " VALUES ($1, $2, $3, $4, 'pending')",
        saga.id,
        saga.input.order_id,
        saga.input.amount,
        saga.input.currency,
    )


@reserve.compensation
async def release(tx: Tx, saga: Saga[Order]) -> None:
    """Give the reservation back."""
    await tx.execute("UPDATE payment SET state = 'released' WHERE saga_id = $1", saga.id)


@payment.call(to="psp", timeout=1.0, pending_on={202})
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    """Charge the card, once however often it is asked."""
    answer = await http.post("/charges", json={"amount": saga.input.amount})
    if answer.status in (402, 410) and answer.json()["code"] in ("declined", "closed_key"):
        raise Refused("card declined")
    return Charge(answer.json()["id"])


@charge.probe
async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
    """Look the charge up by its key."""
    answer = await http.get(f"/charges/by-key/{quote(saga.key, safe='')}")
    if answer.status == 404 and answer.json()["code"] == "unknown_key":
        return None  # the provider's own word: a gateway says 404 too
    if answer.status == 202:
        raise Pending("the customer has not confirmed it")
    return Charge(answer.json()["id"])


@charge.webhook
def charge_ended(hook: Webhook) -> Landed[Charge] | None:
    """The end of a charge that was answered 202: the provider tells it once it is known."""
    sent_at = hook.header("Psp-Time")
    hook.verify_hmac(hook.header("Psp-Signature"), signed=sent_at.encode() + hook.body)
    hook.verify_time(sent_at)
    said = hook.json()
    if said["type"] != "charge.succeeded":
        return None
    return Landed(result=Charge(said["id"]), key=said["key"])


@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
    """Refund by the key of the charge, whether or not its answer ever reached us."""
    charge_id = made.charge_id if made is not None else None
    body = {"key": saga.key_of(charge), "charge_id": charge_id}
    answer = await http.post("/refunds", json=body)
    if answer.status == 402:
        raise Refused("the refund was declined")
    if answer.status != 200 or "refunded" not in answer.json():
        raise Transient(f"the refund was answered {answer.status}")


@payment.transaction(compensation=None, reason="release takes its row back too")
async def record(tx: Tx, saga: Saga[Order]) -> None:
    """Write down what was charged."""
    await tx.execute(
        "UPDATE payment SET state = 'charged', charge_id = $1 WHERE saga_id = $2",
        saga.result(charge).charge_id,
        saga.id,
    )


@payment.output
def charged(saga: Saga[Order]) -> Charge:
    """The charge, for the stages behind this one."""
    return saga.result(charge)


app = payment.app
