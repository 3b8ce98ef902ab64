"""The way back: compensation from either side, before, during and after."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from tests.scenario.chain import Chain


def decoded(body: bytes) -> Any:
    return msgspec.json.decode(body)


async def test_upstream_asks_after_success_and_downstream_goes_first(chain: Chain) -> None:
    """From the tail to the head (3.4): shipping, then the charge, then the reservation."""
    await chain.send("s-1")
    status, _, body = await chain.compensate("s-1", by="order")
    assert (200, "compensated") == (status, decoded(body)["outcome"])
    entries = (await chain.get(f"{chain.stage}/sagas/s-1?view=journal"))["entries"]
    undone = [entry["step"] for entry in entries if entry["event"] == "compensation_succeeded"]
    assert ["forward:shipping", "charge", "reserve"] == undone
    assert (1, 0) == await chain.charges()


async def test_asked_twice_it_answers_twice_the_same(chain: Chain) -> None:
    """Compensation is idempotent (3.4)."""
    await chain.send("s-1")
    first, again = await chain.compensate("s-1"), await chain.compensate("s-1")
    assert (first[0], first[2]) == (again[0], again[2])


async def test_a_late_failure_travels_up(chain: Chain) -> None:
    """Downstream says yes and fails later: we undo, and tell upstream (rule 22)."""
    await chain.script(chain.shipping, script="late-failure", seconds=0.05)
    order = msgspec.json.encode({"order_id": "o-1", "amount": 100, "currency": "KRW"})
    status, _, _ = await chain.request("POST", f"{chain.order}/orders", order, Saga_Id="s-1")
    assert 200 == status
    view = await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")
    assert ("compensated", "shipping") == (view["state"], view["requested_by"])
    assert (1, 0) == await chain.charges()
    assert "compensated" == (await chain.get(f"{chain.order}/sagas/s-1"))["state"]


async def test_a_late_failure_waits_for_an_upstream_that_is_away(chain: Chain) -> None:
    """Told from the journal until it answers; visible in the view meanwhile (rule 22)."""
    order = msgspec.json.encode({"order_id": "o-1", "amount": 100, "currency": "KRW"})
    await chain.request("POST", f"{chain.order}/orders", order, Saga_Id="s-1")
    await chain.script(chain.order, script="away")
    await chain.compensate("s-1", by="shipping")
    view = await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert view["told_upstream"] in ("due", "in_flight")
    await chain.script(chain.order, script="accept")
    await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")
    assert "compensated" == (await chain.get(f"{chain.order}/sagas/s-1"))["state"]


async def test_compensation_before_its_request_leaves_a_tombstone(chain: Chain) -> None:
    """The late request gets 410 and nothing ever runs (rule 9)."""
    status, _, _ = await chain.compensate("s-1")
    assert 200 == status
    late = await chain.send("s-1")
    assert (410, "not_executed") == (late[0], decoded(late[2])["outcome"])
    assert (0, 0) == await chain.charges()


async def test_a_request_after_compensation_is_gone(chain: Chain) -> None:
    """Execute after compensate is refused for ever (rule 9, I6)."""
    await chain.send("s-1")
    await chain.compensate("s-1")
    assert 410 == (await chain.send("s-1"))[0]
    assert (1, 0) == await chain.charges()


async def test_compensation_during_execution_turns_it_round(chain: Chain) -> None:
    """Never beside the call: the call ends, then everything is undone (rule 10)."""
    await chain.script(chain.psp, script="effect-then-hang")
    sending = asyncio.create_task(chain.send("s-1"))
    await chain.until_charged()
    status, _, _ = await chain.compensate("s-1", by="order")
    assert 200 == status
    assert 410 == (await sending)[0]
    made, standing = await chain.charges()
    assert (1, 0) == (made, standing)
    assert await chain.shipped("s-1") is None


async def test_a_refund_that_fails_for_good_is_reported_and_does_not_stop_the_others(
    chain: Chain,
) -> None:
    """409 with the list of what stands; the reservation is released all the same (rule 12)."""
    await chain.send("s-1")
    await chain.script(chain.psp, script="refund-fails")
    status, _, body = await chain.compensate("s-1")
    problem = decoded(body)
    assert (409, ["charge"]) == (status, problem["stands"])
    view = await chain.view("s-1")
    assert ("failed_to_compensate", True, ["charge"]) == (
        view["state"],
        view["parked"],
        view["stands"],
    )
    phases = {step["name"]: step["phase"] for step in view["steps"]}
    assert "compensated" == phases["reserve"] == phases["forward:shipping"]


async def test_an_effect_that_downstream_cannot_undo_is_listed(chain: Chain) -> None:
    """Downstream answers 409: we undo ourselves and pass its list on."""
    await chain.script(chain.shipping, script="compensate-fails")
    await chain.send("s-1")
    status, _, body = await chain.compensate("s-1")
    assert 409 == status
    assert "forward:shipping" in decoded(body)["stands"]
    assert (1, 0) == await chain.charges()


async def test_a_flaky_compensation_downstream_is_repeated(chain: Chain) -> None:
    """503 twice, then 200 (rule 13)."""
    await chain.script(chain.shipping, script="compensate-flaky")
    await chain.send("s-1")
    await chain.compensate("s-1")
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await chain.charges()
