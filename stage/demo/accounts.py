"""How each story ended, by the books of the four services, and whether the books balance."""

from __future__ import annotations

from typing import Any

import msgspec

from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.story import Acted, Expected, Story


class Account(msgspec.Struct, kw_only=True):
    """One story as it ended: what each service says of its saga, and whether that is expected."""

    name: str
    saga_id: str
    trace_id: str
    outcome: str
    states: dict[str, str | None]
    charges: dict[str, int]
    ok: bool
    standing_downstream: int = 0
    seconds: float = 0.0
    title: str = ""
    checks: list[tuple[str, bool]] = []
    journal: list[dict[str, Any]] = []

    @property
    def unaccounted(self) -> int:
        """The number of effects that stand without a completed saga, or were made twice."""
        if self.states["payment"] == "completed":
            return abs(self.charges["standing"] - 1) + abs(self.standing_downstream - 1)
        order = 1 if self.states["order"] == "completed" else 0
        return self.charges["standing"] + self.standing_downstream + order


async def take_account(chain: Chain, client: Client, story: Story, acted: Acted) -> Account:
    """Ask each of the four services for its own books on the saga."""
    saga_id = acted.saga_id
    order, payment, shipping = [
        await client.saga(service, saga_id)
        for service in (chain.order, chain.payment, chain.shipping)
    ]
    made, standing = await client.charges(chain.psp, saga_id)
    journal = await client.journal(chain.payment, saga_id)
    account = Account(
        name=story.name,
        title=story.title,
        saga_id=saga_id,
        trace_id=(payment or {}).get("trace_id") or "",
        outcome=(payment or {}).get("outcome", "unknown"),
        states={
            "order": (order or {}).get("state"),
            "payment": (payment or {}).get("state"),
            "shipping": (shipping or {}).get("state"),
        },
        charges={"made": made, "standing": standing},
        standing_downstream=(shipping or {}).get("standing", 0),
        checks=acted.checks,
        journal=journal,
        ok=False,
    )
    account.ok = _as_expected(account, story.expected) and all(holds for _, holds in acted.checks)
    return account


def _as_expected(account: Account, expected: Expected) -> bool:
    states = {"order": expected.order, "payment": expected.payment, "shipping": expected.shipping}
    charges = {"made": expected.made, "standing": expected.standing}
    return (
        account.outcome == expected.outcome
        and account.states == states
        and account.charges == charges
    )


def document(accounts: list[Account], unaccounted: int, ok: bool, *, tls: bool) -> bytes:
    """The output of `stage demo --json`."""
    members = ("name", "saga_id", "trace_id", "outcome", "states", "charges", "ok")
    stories = [{name: getattr(account, name) for name in members} for account in accounts]
    return msgspec.json.encode(
        {"stories": stories, "unaccounted_effects": unaccounted, "ok": ok, "tls": tls}
    )
