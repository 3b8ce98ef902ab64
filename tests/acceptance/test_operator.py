"""An operator at a saga that is really stuck, with nothing but the command line."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import msgspec

from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.stories import place
from stage.wire.envelope import parse_instant
from tests import forked

SWEPT = 12
"""Sagas of a sweep at four a second, which is killed behind the first."""


async def stage(chain: Chain, *arguments: str) -> tuple[int, str]:
    """Run one command against the payment stage; its status and what it printed."""
    whose = ("--url", chain.payment.url, "--token-file", str(chain.keys.token_file("operator")))
    done = await asyncio.to_thread(forked.stage, *arguments, *whose)
    return done.status, done.out + done.err


async def stick(chain: Chain, client: Client) -> None:
    """Completed, then asked to compensate while the provider declines refunds for good."""
    assert 200 == (await place(chain, client, "s-1")).status
    await client.script(chain.psp, {"script": "refund-fails"})
    status, said = await stage(chain, "compensate", "s-1", "--reason", "withdrawn")
    assert 1 == status
    assert "stands: charge" in said


async def test_plan_then_resolve_a_refund_made_by_hand(processes: Chain, client: Client) -> None:
    """parked, shown, planned, tried dry, resolved; the audit row names who and why."""
    await stick(processes, client)
    status, said = await stage(processes, "sagas", "--parked")
    assert (0, True) == (status, "s-1" in said)
    status, said = await stage(processes, "top", "--once")
    assert (0, True) == (status, "parked 1" in said and "failed_to_compensate" in said), said
    status, said = await stage(processes, "plan", "s-1")
    assert (0, True) == (status, "CANNOT be undone by itself" in said)
    order = ("--reason", "refunded by hand, ticket 17", "--actor", "kim")
    status, said = await stage(processes, "resolve", "s-1", "--dry-run", *order)
    assert (0, True) == (status, "would be compensating" in said), said
    assert "resolved" not in await client.events(processes.payment, "s-1")
    status, said = await stage(processes, "resolve", "s-1", *order)
    assert (0, True) == (status, "is compensated" in said), said
    audit = [entry for entry in await client.journal(processes.payment, "s-1") if "actor" in entry]
    assert [("resolved", "kim", "refunded by hand, ticket 17")] == [
        (entry["event"], entry["actor"], entry["why"]) for entry in audit
    ]
    status, said = await stage(processes, "show", "s-1")
    assert (0, True) == (status, "kim" in said and "ticket 17" in said), said


async def test_retry_all_that_waits_for_a_peer_that_came_back(
    processes: Chain, client: Client
) -> None:
    """The provider refunds again: one command tries everything that had failed on it."""
    await stick(processes, client)
    await client.script(processes.psp, {"script": "ok"})
    arguments = ("retry", "--all", "--peer", "psp", "--reason", "psp is back", "--actor", "kim")
    status, said = await stage(processes, *arguments)
    assert (0, True) == (status, "1 sagas waited for psp, 1 are tried again" in said), said
    await client.until(processes.payment, "s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await client.charges(processes.psp, "s-1")


async def test_settle_a_call_that_is_in_doubt(processes: Chain, client: Client) -> None:
    """Every probe fails too; the operator looks at the provider and says that it landed."""
    await client.script(processes.psp, {"script": "effect-then-hang", "times": 1})
    placing = asyncio.create_task(place(processes, client, "s-1"))
    await client.until_charged(processes.psp, "s-1")
    await processes.psp.kill()  # from here on it cannot be asked; its books die with it
    await client.until(
        processes.payment, "s-1", lambda saga: saga["steps"][1]["phase"] == "in_doubt"
    )
    arguments = (
        *("settle", "s-1", "--step", "charge", "--landed"),
        *("--result", '{"charge_id": "ch_000001"}', "--reason", "seen there", "--actor", "kim"),
    )
    for _ in range(100):  # a probe may be in flight: the verb is refused until it has ended
        status, said = await stage(processes, *arguments)
        if status == 0:
            break
        assert "in flight" in said
    assert 0 == status, said
    assert 200 == (await placing).status
    audit = [entry for entry in await client.journal(processes.payment, "s-1") if "actor" in entry]
    assert [("settled", "kim", "seen there")] == [
        (entry["event"], entry["actor"], entry["why"]) for entry in audit
    ]


async def test_a_sweep_goes_on_after_the_process_was_killed(
    processes: Chain, client: Client
) -> None:
    """SIGKILL in its midst: the next process does the rest, and acts on no saga twice."""
    ids = [f"s-{number}" for number in range(SWEPT)]
    for saga_id in ids:
        assert 200 == (await place(processes, client, saga_id)).status
    await client.script(processes.psp, {"script": "refund-fails"})
    for saga_id in ids:
        await stage(processes, "compensate", saga_id, "--reason", "withdrawn")
    await client.script(processes.psp, {"script": "ok"})
    named = ("--cause", "failed_to_compensate", "--reason", "psp is back", "--actor", "kim")
    status, said = await stage(processes, "sweep", "retry", *named, "--dry-run")
    assert (0, True) == (status, f"would be done to {SWEPT} sagas" in said), said
    status, said = await stage(processes, "sweep", "retry", *named, "--rate", "4")
    assert (0, True) == (status, "running" in said), said
    await client.until(processes.payment, ids[0], lambda saga: saga["state"] == "compensated")
    killed = time.time()
    await processes.payment.kill()
    await processes.payment.start()
    status, said = await stage(processes, "sweeps", "1", "-o", "json")
    assert msgspec.json.decode(said)["pending"] < SWEPT, said
    for saga_id in ids:
        await client.until(processes.payment, saga_id, lambda saga: saga["state"] == "compensated")
        assert (1, 0) == await client.charges(processes.psp, saga_id)
    _, said = await stage(processes, "audit", "--limit", "500", "-o", "json")
    acts = [act for act in msgspec.json.decode(said)["acts"] if retried(act)]
    assert dict.fromkeys(ids, 1) == Counter(act["target"] for act in acts)
    at = [parse_instant(act["at"]) for act in acts]
    assert min(at) < killed < max(at)


def retried(act: dict[str, str]) -> bool:
    """Whether it was done by the first sweep."""
    return act["act"] == "retried" and act["reason"] == "psp is back (sweep 1)"
