"""The services below every caller: a real stage with its external API, and a tail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stage.demo.chain import Service, free_ports, url
from stage.demo.client import Client

STAGES = ("payment", "shipping")
ORDER = {"order_id": "o-1", "amount": 100, "currency": "KRW"}


class Books(NamedTuple):
    """The world's own count for one saga: made and standing, charges and parcels."""

    charged: int
    charges: int
    sent: int
    parcels: int


DONE = Books(charged=1, charges=1, sent=1, parcels=1)
UNDONE = Books(charged=1, charges=0, sent=1, parcels=0)
UNTIL_SECONDS_MAX = 60.0
POLL_SECONDS = 0.05


class Parts:
    """payment is a real stage on SQLite. It hands on to shipping only where `hands_on` is set."""

    def __init__(
        self,
        folder: Path,
        *,
        caller: str,
        door: str,
        hands_on: bool = False,
        otlp: str = "",
        engine: Sequence[str] = (),
    ) -> None:
        """`caller` is the upstream of payment, at the URL `door`; `engine` are options of it."""
        psp, payment, shipping = free_ports(3)
        options = ["--otlp-endpoint", otlp] if otlp else []
        above = url(payment) if hands_on else door
        hand = ["--downstream", f"shipping={url(shipping)}"] if hands_on else []
        self.psp = Service("psp", psp, ["stage.demo.psp", *options], folder / "psp.log")
        self.payment = Service(
            "payment",
            payment,
            [
                *("stage", "serve", "stage.demo.payment:payment", "--auth", "none"),
                *("--database", f"sqlite:///{folder / 'payment.db'}"),
                *("--upstream", f"{caller}={door}", "--external", f"psp={url(psp)}"),
                *hand,
                *options,
                *engine,
            ],
            folder / "payment.log",
        )
        tail = ["stage.neighbours.downstream", "--name", "shipping", "--upstream", above]
        self.shipping = Service("shipping", shipping, [*tail, *options], folder / "shipping.log")
        self.client = Client()

    @property
    def services(self) -> tuple[Service, ...]:
        """All of them."""
        return (self.psp, self.payment, self.shipping)

    async def start(self) -> None:
        """Start all of them."""
        await self.client.__aenter__()
        await asyncio.gather(*(each.start() for each in self.services))

    async def stop(self) -> None:
        """Stop all of them."""
        await self.client.__aexit__()
        await asyncio.gather(*(each.stop() for each in self.services))

    async def books(self, saga_id: str) -> Books:
        """The count, from the books of psp and shipping."""
        charged, charges = await self.client.charges(self.psp, saga_id)
        parcel: dict[str, Any] = await self.client.saga(self.shipping, saga_id) or {}
        return Books(charged, charges, parcel.get("executed", 0), parcel.get("standing", 0))

    async def until(self, saga_id: str, books: Books) -> None:
        """Return when the books say so."""
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while books != await self.books(saga_id):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(POLL_SECONDS)

    def urls(self) -> dict[str, str]:
        """The stages by name."""
        return {name: getattr(self, name).url for name in STAGES}
