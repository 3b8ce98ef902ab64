"""The stage killed with SIGKILL at the moments that matter, and what the world says afterwards."""

from __future__ import annotations

import asyncio

from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.stories import place


async def test_killed_between_effect_and_commit_it_makes_one_charge(
    processes: Chain, client: Client
) -> None:
    """The charge landed, its answer was never heard: the next run finds it and goes on."""
    script = {"script": "effect-then-hang", "times": 1}
    await client.script(processes.psp, script)
    placing = asyncio.create_task(place(processes, client, "s-1"))
    await client.until_charged(processes.psp, "s-1")
    assert ["step_started"] == (await client.events(processes.payment, "s-1"))[-1:]
    await processes.payment.kill()
    await processes.payment.start()
    reply = await placing
    assert 200 == reply.status, reply.body
    events = await client.events(processes.payment, "s-1")
    assert ["recovered", "probe_started"] == events[3:5]
    # A probe may have no answer on a busy machine; no second charge is begun before one has.
    assert {"probe_started", "probe_failed"} >= set(events[5 : events.index("probe_found")])
    assert (1, 1) == await client.charges(processes.psp, "s-1")


async def test_killed_while_downstream_works_it_hands_on_once(
    processes: Chain, client: Client
) -> None:
    """Downstream is slow; the next run asks it again under the same id, and it works once."""
    await client.script(processes.shipping, {"script": "slow", "seconds": 2.0})
    placing = asyncio.create_task(place(processes, client, "s-1"))
    await client.until(processes.shipping, "s-1", lambda saga: saga["requests"] == 1)
    await processes.payment.kill()
    await processes.payment.start()
    assert 200 == (await placing).status
    shipped = await client.saga(processes.shipping, "s-1")
    assert shipped is not None
    assert (1, 1) == (shipped["executed"], shipped["standing"])
    assert "recovered" in await client.events(processes.payment, "s-1")


async def test_killed_while_it_undoes_it_refunds_once(processes: Chain, client: Client) -> None:
    """Downstream cannot compensate at first; killed meanwhile, the next run finishes the undo."""
    await client.script(processes.shipping, {"script": "compensate-flaky"})
    assert 200 == (await place(processes, client, "s-1")).status
    asked = {"requested_by": "order", "reason": "withdrawn"}
    url = f"{processes.payment.url}/sagas/s-1/compensate"
    asking = asyncio.create_task(client.post(url, asked))
    await client.until(processes.shipping, "s-1", lambda saga: bool(saga["compensations"]))
    await processes.payment.kill()
    await asyncio.gather(asking, return_exceptions=True)
    await processes.payment.start()
    await client.until(processes.payment, "s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await client.charges(processes.psp, "s-1")
    shipped = await client.saga(processes.shipping, "s-1")
    assert shipped is not None
    assert 0 == shipped["standing"]
