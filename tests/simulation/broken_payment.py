"""The payment stage of the demo with one mistake of an author a stage: `simulate` finds each.

`returns_on_none` refunds only what is known, so a charge whose answer was lost is taken for one
that never was. `wrong_key` refunds by the key of the refund. `not_released` leaves its row.
`forgotten` has no compensation of its charge, and says so. `believes_a_410` takes the 410
of a gateway for the no of the provider.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from stage import Http, Refused, Saga, Stage, Transient, Tx, demo
from stage.authoring.http import Response
from stage.authoring.steps import ResultCallStep
from stage.demo.payment import Charge, Order

RELEASE = "UPDATE payment SET state = 'released' WHERE saga_id = ?"


# Long because it is a whole stage, but for the part that is wrong.
def broken(
    *,
    refunds: bool = True,
    releases: str = RELEASE,
    key: Callable[[Saga[Order], str], str] = lambda _saga, of_charge: of_charge,
    only_known: bool = False,
    no_by: Callable[[Response], bool] = lambda a: a.json()["code"] in ("declined", "closed_key"),
) -> Stage[Order, Charge]:
    """The stage with that mistake."""
    stage = Stage(
        "payment",
        accepts=Order,
        adds=Charge,
        migrations=str(Path(demo.__file__).parent / "migrations"),
    )

    @stage.transaction
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        if saga.input.amount <= 0:
            raise Refused("the amount must be positive")
        order = saga.input
        await tx.execute(
            "INSERT INTO payment (saga_id, order_id, amount, currency, state)"
            " VALUES (?, ?, ?, ?, 'pending')",
            saga.id,
            order.order_id,
            order.amount,
            order.currency,
        )

    @reserve.compensation
    async def release(tx: Tx, saga: Saga[Order]) -> None:
        await tx.execute(releases, saga.id)

    async def pay(http: Http, saga: Saga[Order]) -> Charge:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        if answer.status in (402, 410) and no_by(answer):
            raise Refused("card declined")
        return Charge(answer.json()["id"])

    pay.__name__ = "charge"
    kept = "" if refunds else "it is settled by hand at the end of the month"
    charge = stage.call(to="psp", timeout=1.0, reason=kept)(pay)

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
        answer = await http.get(f"/charges/by-key/{quote(saga.key, safe='')}")
        if answer.status == 404 and answer.json()["code"] == "unknown_key":
            return None
        return Charge(answer.json()["id"])

    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        if only_known and made is None:
            return
        by = key(saga, saga.key_of(charge))
        charge_id = None if made is None else made.charge_id
        answer = await http.post("/refunds", json={"key": by, "charge_id": charge_id})
        if answer.status == 402:
            raise Refused("the refund was declined")
        if answer.status == 404 and answer.json()["code"] == "unknown_charge":
            return
        if answer.status != 200 or "refunded" not in answer.json():
            raise Transient(f"the refund was answered {answer.status}")

    if refunds:
        charge.compensation(refund)

    _record(stage, charge)
    return stage


def _record(stage: Stage[Order, Charge], charge: ResultCallStep[Order, Charge]) -> None:
    """The part that is right in all of them."""

    @stage.transaction(compensation=None, reason="release takes its row back too")
    async def record(tx: Tx, saga: Saga[Order]) -> None:
        await tx.execute(
            "UPDATE payment SET state = 'charged', charge_id = ? WHERE saga_id = ?",
            saga.result(charge).charge_id,
            saga.id,
        )

    @stage.output
    def charged(saga: Saga[Order]) -> Charge:
        return saga.result(charge)


returns_on_none = broken(only_known=True)
wrong_key = broken(key=lambda saga, _of_charge: saga.key)
not_released = broken(releases="UPDATE payment SET charge_id = NULL WHERE saga_id = ?")
forgotten = broken(refunds=False)
believes_a_410 = broken(no_by=lambda _answer: True)
