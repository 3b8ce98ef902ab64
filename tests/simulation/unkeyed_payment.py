"""A payment at a bank that ignores idempotency keys, for `stage simulate`. Model: `apis`, below.

`payment` believes the bank's own word that nothing was paid. `believes_a_404` takes the 404 of a
gateway for it, and pays again.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from stage import Http, Refused, Saga, Stage, Transient
from stage.authoring.http import Response
from stage.simulation import UnkeyedApi


class Order(msgspec.Struct):
    """The order to be paid."""

    amount: int


def _stage(own_word: Callable[[Response], bool]) -> Stage[Order, str]:
    stage: Stage[Order, str] = Stage("payment", accepts=Order)

    @stage.call(to="bank", timeout=1.0, idempotent=False)
    async def pay(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/payments", json={"amount": saga.input.amount})
        if answer.status in (402, 410) and answer.json()["code"] in ("refused", "closed_key"):
            raise Refused("the bank declined")
        return str(answer.json()["id"])

    @pay.probe
    async def find_payment(http: Http, saga: Saga[Order]) -> str | None:
        answer = await http.get("/payments", params={"reference": saga.id})
        if answer.status == 404 and own_word(answer):
            return None
        return str(answer.json()["id"])

    @pay.compensation
    async def pay_back(http: Http, saga: Saga[Order], paid: str | None) -> None:
        answer = await http.post("/repayments", json={"id": paid})
        if answer.status == 402 and answer.json()["code"] == "undo_refused":
            raise Refused("the bank keeps it")
        if answer.status != 200 or "undone" not in answer.json():
            raise Transient(f"the repayment was answered {answer.status}")

    return stage


payment = _stage(lambda answer: answer.json()["code"] == "unknown_key")
believes_a_404 = _stage(lambda _answer: True)


class Bank(UnkeyedApi):
    """Every request that arrives pays."""


apis = {"bank": Bank}
