"""A stage that refuses every saga: a simulation of it shows nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stage import Refused, Saga, Stage, Tx, demo
from stage.demo.payment import Order

MIGRATIONS = str(Path(demo.__file__).parent / "migrations")

payment: Stage[Order, Any] = Stage("payment", accepts=Order, migrations=MIGRATIONS)


@payment.transaction(compensation=None, reason="it refuses")
async def reserve(tx: Tx, saga: Saga[Order]) -> None:
    """The planted mistake: the condition is the wrong way round."""
    if saga.input.amount >= 0:
        raise Refused("the amount must be positive")
