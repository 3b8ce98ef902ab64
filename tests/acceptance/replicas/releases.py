"""Two releases of the payment stage of the kills: the second has a version, and a step more.

`main` is told which of them to serve, `old` or `new`, and the options of `stage serve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import stage.bootstrap  # noqa: F401 - a zygote has imported it before it forks
from stage import Http, Refused, Saga, Stage, Transient, Tx
from stage.cli.root import run
from tests.acceptance.kills.stages import Charge, Order, enter

MIGRATIONS = Path(__file__).parents[1] / "kills" / "migrations" / "payment"


# Long because a declaration is a list of functions.
def release(*, notes: bool, **lineage: Any) -> Stage[Order, Charge]:
    """One release; one that notes has a local step more before it hands on."""
    payment = Stage("payment", accepts=Order, adds=Charge, migrations=str(MIGRATIONS), **lineage)

    @payment.transaction
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        await enter(tx, saga, "reserve", 1)

    @reserve.compensation
    async def release(tx: Tx, saga: Saga[Order]) -> None:
        await enter(tx, saga, "reserve", -1)

    @payment.call(to="world", timeout=1.0)
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        if answer.status in (402, 410) and answer.json()["code"] in ("declined", "closed_key"):
            raise Refused(f"declined: {answer.status}")
        return Charge(answer.json()["id"])

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
        answer = await http.get(f"/charges/by-key/{quote(saga.key, safe='')}")
        if answer.status == 404 and answer.json()["code"] == "unknown_key":
            return None
        return Charge(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        key = saga.key.removesuffix(":undo") + ":do"
        answer = await http.post("/refunds", json={"key": key})
        if answer.status != 200 or "standing" not in answer.json():
            raise Transient(f"the refund was answered {answer.status}")

    @payment.transaction
    async def record(tx: Tx, saga: Saga[Order]) -> None:
        await enter(tx, saga, "record", 1)

    @record.compensation
    async def strike_out(tx: Tx, saga: Saga[Order]) -> None:
        await enter(tx, saga, "record", -1)

    if notes:

        @payment.transaction
        async def note(tx: Tx, saga: Saga[Order]) -> None:
            await enter(tx, saga, "note", 1)

        @note.compensation
        async def cross_out(tx: Tx, saga: Saga[Order]) -> None:
            await enter(tx, saga, "note", -1)

    @payment.output
    def charged(saga: Saga[Order]) -> Charge:
        return saga.result(charge)

    return payment


old = release(notes=False)
new = release(notes=True, version=2, supersedes=old)


def main(arguments: Sequence[str]) -> int:
    """`stage serve` with one of them."""
    name, *options = arguments
    return run(["serve", f"{__name__}:{name}", "--auth", "none", *options])
