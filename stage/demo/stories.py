"""The nine stories of the demo."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace

from stage.demo.chain import Chain
from stage.demo.client import Client, Reply
from stage.demo.story import Acted, Expected, Story
from stage.wire.envelope import (
    Envelope,
    TrailEntry,
    encode_envelope,
    format_instant,
    new_saga_id,
)


def order_of(saga_id: str) -> dict[str, Any]:
    """The order of a story."""
    return {"order_id": f"o-{saga_id[-6:]}", "amount": 100, "currency": "KRW"}


async def place(chain: Chain, client: Client, saga_id: str) -> Reply:
    """Post an order upstream, which starts the saga, and wait for its outcome."""
    return await client.post(
        f"{chain.order.url}/orders", order_of(saga_id), {"Saga-Id": saga_id}, timeout=30.0
    )


async def completed(chain: Chain, client: Client, saga_id: str) -> Acted:
    """Nothing goes wrong."""
    reply = await place(chain, client, saga_id)
    return Acted(saga_id=saga_id, checks=[("upstream answered 200", reply.status == 200)])


async def refused(chain: Chain, client: Client, saga_id: str) -> Acted:
    """Downstream refuses."""
    await client.script(chain.shipping, {"script": "refuse", "match": saga_id})
    reply = await place(chain, client, saga_id)
    return Acted(saga_id=saga_id, checks=[("upstream answered 409", reply.status == 409)])


async def in_doubt(chain: Chain, client: Client, saga_id: str) -> Acted:
    """The charge lands, and its answer never arrives."""
    script = {"script": "effect-then-hang", "times": 1, "match": saga_id}
    await client.script(chain.psp, script)
    reply = await place(chain, client, saga_id)
    events = await client.events(chain.payment, saga_id)
    return Acted(
        saga_id=saga_id,
        checks=[
            ("upstream answered 200", reply.status == 200),
            ("the call was in doubt", "step_in_doubt" in events),
            ("the probe found it", "probe_found" in events),
        ],
    )


async def late_failure(chain: Chain, client: Client, saga_id: str) -> Acted:
    """Downstream answers 200 and fails a moment later."""
    # Later than the yes has come up the chain, on a machine with much else to do.
    script = {"script": "late-failure", "seconds": 1.0, "match": saga_id}
    await client.script(chain.shipping, script)
    reply = await place(chain, client, saga_id)
    await client.until(chain.order, saga_id, lambda saga: saga.get("state") == "compensated")
    await client.until(
        chain.payment, saga_id, lambda saga: saga.get("told_upstream") == "delivered"
    )
    return Acted(saga_id=saga_id, checks=[("upstream answered 200 first", reply.status == 200)])


async def overtaken(chain: Chain, client: Client, saga_id: str) -> Acted:
    """The compensation arrives before its request."""
    asked = {"requested_by": "order", "reason": "the order was withdrawn"}
    first = await client.post(f"{chain.payment.url}/sagas/{saga_id}/compensate", asked)
    late = await send(chain, client, saga_id)
    reply = await place(chain, client, saga_id)
    return Acted(
        saga_id=saga_id,
        checks=[
            ("the early compensation was answered 200", first.status == 200),
            ("the late request was answered 410", late.status == 410),
            ("upstream undid its own part", reply.status == 409),
        ],
    )


async def five_times(chain: Chain, client: Client, saga_id: str) -> Acted:
    """The same request five times at once."""
    replies = await asyncio.gather(*(send(chain, client, saga_id) for _ in range(5)))
    events = await client.events(chain.payment, saga_id)
    return Acted(
        saga_id=saga_id,
        checks=[
            ("all were answered 200", all(reply.status == 200 for reply in replies)),
            ("the five answers are equal", len({reply.body for reply in replies}) == 1),
            ("there was one run", events.count("accepted") == 1 and "recovered" not in events),
        ],
    )


async def killed(chain: Chain, client: Client, saga_id: str) -> Acted:
    """SIGKILL after the charge has landed and before the stage could commit it."""
    script = {"script": "effect-then-hang", "times": 1, "match": saga_id}
    await client.script(chain.psp, script)
    placing = asyncio.create_task(place(chain, client, saga_id))
    try:
        await client.until_charged(chain.psp, saga_id)
        before = await client.events(chain.payment, saga_id)
        await chain.payment.kill()
        await chain.payment.start()
        reply = await placing
    finally:
        placing.cancel()
    events = await client.events(chain.payment, saga_id)
    return Acted(
        saga_id=saga_id,
        checks=[
            ("it was killed before the answer", before[-1:] == ["step_started"]),
            ("a new run recovered it", "recovered" in events),
            ("upstream answered 200", reply.status == 200),
        ],
    )


async def behind_gateway(chain: Chain, client: Client, saga_id: str) -> Acted:
    """The gateway says 504 while downstream works, and it was not a no."""
    script = {"script": "slow", "seconds": 2.5, "match": saga_id}
    await client.script(chain.shipping, script)
    reply = await place(chain, client, saga_id)
    journal = await client.journal(chain.payment, saga_id)
    doubts = [entry["reason"] for entry in journal if entry["event"] == "step_in_doubt"]
    parcel = await client.saga(chain.shipping, saga_id) or {}
    return Acted(
        saga_id=saga_id,
        checks=[
            ("the gateway answered 504", "answered 504" in doubts),
            ("upstream answered 200", reply.status == 200),
            ("there is one parcel", parcel.get("executed") == 1),
        ],
    )


async def pending(chain: Chain, client: Client, saga_id: str) -> Acted:
    """The charge waits for the customer; the stage is killed meanwhile, and gets a webhook."""
    await client.script(chain.psp, {"script": "pending", "match": saga_id})
    first = await send(chain, client, saga_id)
    await chain.payment.kill()
    await chain.payment.start()
    key = quote(f"{saga_id}:payment:charge:do", safe="")
    confirm = f"{chain.psp.url}/charges/by-key/{key}/confirm"
    confirmed = await client.post(confirm, {}, timeout=30.0)  # the lease of the killed one is 10 s
    await client.until(chain.payment, saga_id, lambda saga: saga.get("state") == "completed")
    events = await client.events(chain.payment, saga_id)
    return Acted(
        saga_id=saga_id,
        checks=[
            ("upstream was answered 202", first.status == 202),
            ("two webhooks were answered 200", confirmed.body == b'{"webhooks": [200, 200]}'),
            ("one of them counted", events.count("webhook_found") == 1),
        ],
    )


async def send(chain: Chain, client: Client, saga_id: str) -> Reply:
    """Post the saga to the stage itself, as a neighbour would."""
    trail = (TrailEntry(stage="order", at=format_instant(time.time())),)
    envelope = Envelope(saga_id=saga_id, data=order_of(saga_id), trail=trail)
    return await client.post_bytes(f"{chain.payment.url}/sagas", encode_envelope(envelope))


def new_id(letter: str) -> str:
    """A saga id that begins with the letter of its story, so that scripts can match it."""
    return f"{letter}.{new_saga_id()}"


DONE = Expected(
    outcome="executed",
    order="completed",
    payment="completed",
    shipping="completed",
    made=1,
    standing=1,
)
"""One charge stands, and every service has done its part."""
UNDONE = Expected(
    outcome="compensated",
    order="compensated",
    payment="compensated",
    shipping="compensated",
    made=1,
    standing=0,
)
"""One charge was made, and nothing stands anywhere."""

STORIES = (
    Story(
        name="completed",
        title="everything goes well",
        act=completed,
        expected=DONE,
    ),
    Story(
        name="refused",
        title="downstream refuses; the refusal comes back as the answer, everything is undone",
        act=refused,
        expected=UNDONE,
    ),
    Story(
        name="in-doubt",
        title="the call times out although the charge landed: probed, found, one charge",
        act=in_doubt,
        expected=DONE,
    ),
    Story(
        name="late-failure",
        title="downstream answers 200 and fails later: all is undone, and upstream is notified",
        act=late_failure,
        expected=UNDONE,
    ),
    Story(
        name="overtaken",
        title="the compensation overtakes its request: a tombstone, the late request gets 410",
        act=overtaken,
        expected=replace(UNDONE, shipping=None, made=0),
    ),
    Story(
        name="five-times",
        title="the same request five times at once: one run, five equal answers",
        act=five_times,
        expected=replace(DONE, order=None),
    ),
    Story(
        name="killed",
        title="killed with SIGKILL after the charge, before the commit; started again: one charge",
        act=killed,
        kills=True,
        expected=DONE,
    ),
    Story(
        name="gateway",
        title="a gateway says 504 while downstream works: asked again, and it was not a no",
        act=behind_gateway,
        expected=DONE,
    ),
    Story(
        name="pending",
        title="the charge waits for the customer, the stage is killed: a webhook goes on with it",
        act=pending,
        kills=True,
        expected=replace(DONE, order=None),
    ),
)
LETTERS = "abcdefghi"
