"""Three real stages for `stage serve`: order -> payment (-> world) -> shipping, each with a ledger.

Every effect is a row of the stage's own ledger, written by the step itself, so that the books at
the end count what really happened and not what the journal says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote
from zlib import crc32

import msgspec

import stage.bootstrap  # noqa: F401 - a zygote has imported it before it forks
from stage import Http, Refused, Saga, Stage, Transient, Tx
from stage.cli.root import run

REFUSED_PERCENT = 6
"""The share of sagas that shipping refuses, by their ids."""


class Order(msgspec.Struct):
    """The order that the client hands over."""

    order_id: str
    amount: int


class Charge(msgspec.Struct):
    """The addition of payment."""

    charge_id: str


class Parcel(msgspec.Struct):
    """The addition of shipping."""

    parcel_id: str


async def enter(tx: Tx, saga: Saga[Any], step: str, direction: int) -> None:
    """One row for one effect."""
    await tx.execute(
        "INSERT INTO ledger (saga_id, step, direction) VALUES ($1, $2, $3)",
        saga.id,
        step,
        direction,
    )


# --- order: the head ---------------------------------------------------------------------------

order: Stage[Order, Any] = Stage("order", accepts=Order, migrations="migrations/order")


@order.transaction
async def place(tx: Tx, saga: Saga[Order]) -> None:
    """Write the order down."""
    await enter(tx, saga, "place", 1)


@place.compensation
async def withdraw(tx: Tx, saga: Saga[Order]) -> None:
    """Take it back."""
    await enter(tx, saga, "place", -1)


# --- payment: the middle, with an external API -------------------------------------------------

payment = Stage("payment", accepts=Order, adds=Charge, migrations="migrations/payment")


@payment.transaction
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    """Write the payment down before anything leaves."""
    await enter(tx, saga, "reserve", 1)


@reserve.compensation
async def release(tx: Tx, saga: Saga[Order]) -> None:
    """Give the reservation back."""
    await enter(tx, saga, "reserve", -1)


@payment.call(to="world", timeout=1.0)
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    """Charge once, however often it is asked."""
    answer = await http.post("/charges", json={"amount": saga.input.amount})
    if answer.status in (402, 410) and answer.json()["code"] in ("declined", "closed_key"):
        raise Refused(f"declined: {answer.status}")
    return Charge(answer.json()["id"])


@charge.probe
async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
    """Look the charge up by its key."""
    answer = await http.get(f"/charges/by-key/{quote(saga.key, safe='')}")
    if answer.status == 404 and answer.json()["code"] == "unknown_key":
        return None
    return Charge(answer.json()["id"])


@charge.compensation
async def refund(http: Http, saga: Saga[Order], charge: Charge | None) -> None:
    """Refund by the key of the charge, whether or not its answer ever reached us."""
    key = saga.key.removesuffix(":undo") + ":do"
    answer = await http.post("/refunds", json={"key": key})
    if answer.status != 200 or "standing" not in answer.json():
        raise Transient(f"the refund was answered {answer.status}")


@payment.transaction
async def record(tx: Tx, saga: Saga[Order]) -> None:
    """Write down what was charged."""
    await enter(tx, saga, "record", 1)


@record.compensation
async def strike_out(tx: Tx, saga: Saga[Order]) -> None:
    """Write down that it was given back."""
    await enter(tx, saga, "record", -1)


@payment.output
def charged(saga: Saga[Order]) -> Charge:
    """The charge, for the stages after us."""
    return saga.result(charge)


# --- shipping: the tail ------------------------------------------------------------------------

shipping = Stage("shipping", accepts=Order, adds=Parcel, migrations="migrations/shipping")


def refuses(saga_id: str) -> bool:
    """Whether shipping refuses that saga."""
    return crc32(f"shipping/{saga_id}".encode()) % 100 < REFUSED_PERCENT


@shipping.transaction
async def dispatch(tx: Tx, saga: Saga[Order]) -> None:
    """Send the parcel, or refuse, with nothing written."""
    await enter(tx, saga, "dispatch", 1)
    if refuses(saga.id):
        raise Refused("the address is unknown")


@dispatch.compensation
async def recall(tx: Tx, saga: Saga[Order]) -> None:
    """Call the parcel back."""
    await enter(tx, saga, "dispatch", -1)


@shipping.output
def dispatched(saga: Saga[Order]) -> Parcel:
    """The parcel, for the client."""
    return Parcel(parcel_id=f"p-{saga.id}")


def main(arguments: Sequence[str]) -> int:
    """`stage serve NAME ...`, where NAME is one of the three."""
    name, *options = arguments
    return run(["serve", f"{__name__}:{name}", "--auth", "none", *options])
