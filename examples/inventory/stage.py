"""A second stage: take stock, ask two carriers at the same time, and order a pickup for good.

It shows what the payment stage of the demo does not: calls that run `together`, and a `pivot`.
"""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from stage import Http, Refused, Saga, Stage, Transient, Tx


class Order(msgspec.Struct):
    """The order, as the stage before us hands it over."""

    sku: str
    pieces: int


class Quote(msgspec.Struct):
    """The price of a carrier, held for us until we release it."""

    quote_id: str
    price: int


class Choice(msgspec.Struct):
    """The carrier that was chosen."""

    carrier: str
    quote: Quote


class Pickup(msgspec.Struct):
    """The pickup that was ordered: the addition of this stage to the context."""

    pickup_id: str
    carrier: str
    price: int


inventory = Stage("inventory", accepts=Order, adds=Pickup, migrations="migrations")


@inventory.transaction
async def take(tx: Tx, saga: Saga[Order]) -> None:
    """Take the pieces from the shelf, or refuse: nothing was written then."""
    if saga.input.pieces < 1:
        raise Refused("order at least one piece")
    taken = await tx.execute(
        "UPDATE stock SET free = free - $1 WHERE sku = $2 AND free >= $1",
        saga.input.pieces,
        saga.input.sku,
    )
    if taken == 0:
        raise Refused(f"not enough of {saga.input.sku} in stock")
    await tx.execute(
        "INSERT INTO allocation (saga_id, sku, pieces, state) VALUES ($1, $2, $3, 'held')",
        saga.id,
        saga.input.sku,
        saga.input.pieces,
    )


@take.compensation
async def put_back(tx: Tx, saga: Saga[Order]) -> None:
    """Put the pieces back."""
    await tx.execute(
        "UPDATE stock SET free = free + $1 WHERE sku = $2", saga.input.pieces, saga.input.sku
    )
    await tx.execute("UPDATE allocation SET state = 'released' WHERE saga_id = $1", saga.id)


@inventory.call(to="north", timeout=2.0, together="quotes")
async def ask_north(http: Http, saga: Saga[Order]) -> Quote:
    """Ask the one carrier ..."""
    return await _ask(http, saga)


@ask_north.compensation
async def release_north(http: Http, saga: Saga[Order], quoted: Quote | None) -> None:
    """Release its offer."""
    await _release(http, saga.key_of(ask_north))


@inventory.call(to="south", timeout=2.0, together="quotes")
async def ask_south(http: Http, saga: Saga[Order]) -> Quote:
    """... and the other, at the same time."""
    return await _ask(http, saga)


@ask_south.compensation
async def release_south(http: Http, saga: Saga[Order], quoted: Quote | None) -> None:
    """Release its offer."""
    await _release(http, saga.key_of(ask_south))


@inventory.transaction(compensation=None, reason="put_back releases its row")
async def choose(tx: Tx, saga: Saga[Order]) -> Choice:
    """Take the cheaper offer; both are known here."""
    offers = {"north": saga.result(ask_north), "south": saga.result(ask_south)}
    carrier = min(offers, key=lambda name: offers[name].price)
    await tx.execute("UPDATE allocation SET carrier = $1 WHERE saga_id = $2", carrier, saga.id)
    return Choice(carrier, offers[carrier])


@inventory.call(to="depot", timeout=5.0, pivot=True)
async def order_pickup(http: Http, saga: Saga[Order]) -> Pickup:
    """Order the van. It cannot be called back: from here the stage only goes forward."""
    choice = saga.result(choose)
    body = {"carrier": choice.carrier, "quote_id": choice.quote.quote_id}
    answer = await http.post("/pickups", json=body)
    if answer.status == 409 and answer.json()["code"] == "closed":
        raise Refused("the depot is closed")
    return Pickup(answer.json()["pickup_id"], choice.carrier, choice.quote.price)


@order_pickup.probe
async def find_pickup(http: Http, saga: Saga[Order]) -> Pickup | None:
    """Look the pickup up by its key."""
    answer = await http.get(f"/pickups/by-key/{quote(saga.key, safe='')}")
    if answer.status == 404 and answer.json()["code"] == "unknown_key":
        return None  # the depot's own word: a gateway says 404 too
    choice = saga.result(choose)
    return Pickup(answer.json()["pickup_id"], choice.carrier, choice.quote.price)


@inventory.transaction
async def close(tx: Tx, saga: Saga[Order]) -> None:
    """Write down that it is on its way. Behind the pivot: no compensation."""
    await tx.execute(
        "UPDATE allocation SET state = 'sent', pickup_id = $1 WHERE saga_id = $2",
        saga.result(order_pickup).pickup_id,
        saga.id,
    )


@inventory.output
def sent(saga: Saga[Order]) -> Pickup:
    """The pickup, for the stages behind this one."""
    return saga.result(order_pickup)


async def _ask(http: Http, saga: Saga[Order]) -> Quote:
    answer = await http.post("/quotes", json={"pieces": saga.input.pieces})
    if answer.status == 409 and answer.json()["code"] == "no_offer":
        raise Refused("no offer")
    return msgspec.convert(answer.json(), Quote)


async def _release(http: Http, key: str) -> None:
    """By the key of the offer, so that it works when the offer's answer never reached us."""
    answer = await http.post("/releases", json={"key": key})
    if answer.status != 200 or "released" not in answer.json():
        raise Transient(f"the release was answered {answer.status}")
