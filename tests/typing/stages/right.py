"""A stage as it should be written: neither checker says a word."""

from __future__ import annotations

import msgspec

from stage import Http, Saga, Stage, Tx


class Order(msgspec.Struct):
    amount: int


class Charge(msgspec.Struct):
    id: str


payment = Stage("payment", accepts=Order, adds=Charge)


@payment.transaction
async def reserve(tx: Tx, saga: Saga[Order]) -> int:
    return await tx.execute("INSERT INTO payment VALUES ($1)", saga.input.amount)


@reserve.compensation
async def release(tx: Tx, saga: Saga[Order]) -> None:
    await tx.execute("DELETE FROM payment WHERE id = $1", saga.id)


@payment.call(to="psp", together="both")
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    answer = await http.post("/charges", json={"amount": saga.input.amount})
    return Charge(str(answer.json()["id"]))


@charge.probe
async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
    answer = await http.get(f"/charges/{saga.key}")
    if answer.status == 404 and answer.json()["code"] == "unknown_key":
        return None
    return answer.json(Charge)


@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
    await http.post("/refunds", json={"key": saga.key_of(charge), "known": made is not None})


@payment.effect(to="s3", timeout=5.0)
async def upload(saga: Saga[Order]) -> str:
    return saga.key


@upload.probe
async def find_upload(saga: Saga[Order]) -> str | None:
    return None


@upload.compensation
async def remove(saga: Saga[Order], made: str | None) -> None: ...


@payment.approval("risk", timeout=3600.0)
def risk(saga: Saga[Order]) -> dict[str, int] | None:
    return {"amount": saga.input.amount}


@payment.call(to="mail", compensation=None, reason="a mail cannot be called back")
async def mail(http: Http, saga: Saga[Order]) -> None:
    await http.post("/mails", json={})


@payment.transaction(compensation=None, reason="release takes its row back too")
async def record(tx: Tx, saga: Saga[Order]) -> None:
    await tx.execute("UPDATE payment SET charge_id = $1", saga.result(charge).id)
    approval = saga.result(risk)
    by = "nobody was asked" if approval is None else approval.by
    await tx.execute("UPDATE payment SET approved_by = $1", by)


@payment.output
def charged(saga: Saga[Order]) -> Charge:
    return saga.result(charge)


# a stage that adds nothing needs no annotation
letters = Stage("letters", accepts=Order)


@letters.call(to="post", compensation=None, reason="a letter cannot be called back")
async def post(http: Http, saga: Saga[Order]) -> str:
    return (await http.post("/letters")).json(Charge).id
