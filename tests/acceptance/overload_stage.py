"""A stage of one transaction, for the overload of F13: nothing but the stage itself is measured."""

from __future__ import annotations

import msgspec

from stage import Saga, Stage, Tx


class Order(msgspec.Struct):
    """An order."""

    amount: int


payment: Stage[Order, None] = Stage("payment", accepts=Order)


@payment.transaction
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    """One local write."""
    await tx.execute("CREATE TABLE IF NOT EXISTS reserved (id TEXT PRIMARY KEY, amount INTEGER)")
    await tx.execute("INSERT INTO reserved VALUES ($1, $2)", saga.id, saga.input.amount)


@reserve.compensation
async def release(tx: Tx, saga: Saga[Order]) -> None:
    """Take it back."""
    await tx.execute("DELETE FROM reserved WHERE id = $1", saga.id)
