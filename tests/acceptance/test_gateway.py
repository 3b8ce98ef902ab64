"""F20: a real nginx between order, payment and shipping, faster to give up than they work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stage.demo.chain import free_ports, url
from stage.demo.client import Client
from tests.acceptance.gateway.chain import ChainBehindNginx
from tests.acceptance.gateway.nginx import CACHING, NGINX, Nginx
from tests.kits import Strikes
from tests.scenario.chain import running_chain
from tests.sizes import SIZES

SAGAS = SIZES.gateway_sagas
SAGAS_MAX = 1_000
OWN_PAGES = frozenset({"200", "403", "409", "429", "504"})
AT_A_TIME = 24
KINDS = {"q": None, "s": 1.6, "v": 3.5}
"""By the first letter of the saga id: how long shipping takes over it, in seconds."""
BUDGET_MS = "2500"
"""Of all sagas: too short for the slowest, of which nobody knows how they end."""
REST_SECONDS_MAX = 120.0
UNFINISHED = ("active", "compensating")


@pytest.fixture
async def behind_nginx(tmp_path: Path) -> AsyncIterator[ChainBehindNginx]:
    chain = ChainBehindNginx(tmp_path)
    try:
        await chain.start()
        yield chain
    finally:
        await chain.stop()


def saga_ids(count: int) -> list[str]:
    """A third of them is slower than nginx waits, half of those slower than their budget."""
    return [f"{'qqqqsv'[number % 6]}-{number}" for number in range(count)]


async def until_struck(
    chain: ChainBehindNginx, client: Client, places: asyncio.Semaphore
) -> list[str]:
    """Place more sagas until nginx has answered with each of its own pages; all their ids.

    It answers some requests in a hundred so, by chance.
    """
    ids = saga_ids(SAGAS)
    while not OWN_PAGES <= set(chain.nginx.own_answers()) and len(ids) < SAGAS_MAX:
        more = saga_ids(len(ids) + AT_A_TIME)[len(ids) :]
        await asyncio.gather(*(place(chain, client, places, saga) for saga in more))
        ids += more
    return ids


async def place(
    chain: ChainBehindNginx, client: Client, places: asyncio.Semaphore, saga: str
) -> None:
    order = {"order_id": saga, "amount": 100, "currency": "KRW"}
    headers = {"Saga-Id": saga, "Saga-Budget-Ms": BUDGET_MS}
    async with places:
        await client.post(f"{chain.order.url}/orders", order, headers, timeout=60.0)


async def books_at_rest(chain: ChainBehindNginx, client: Client) -> dict[str, dict[str, Any]]:
    """The books of order and shipping by saga, once neither order nor payment works on any."""
    async with asyncio.timeout(REST_SECONDS_MAX):
        while True:
            orders = (await client.get(f"{chain.order.url}/sagas"))["sagas"]
            states = "&".join(f"state={state}" for state in UNFINISHED)
            left = (await client.get(f"{chain.payment.url}/sagas?{states}"))["sagas"]
            if not left and all(saga["state"] not in UNFINISHED for saga in orders):
                break
            await asyncio.sleep(0.5)
    parcels = (await client.get(f"{chain.shipping.url}/sagas"))["sagas"]
    return {
        "order": {saga["saga_id"]: saga for saga in orders},
        "shipping": {saga["saga_id"]: saga for saga in parcels},
    }


async def charges_of(chain: ChainBehindNginx, client: Client) -> Counter[str]:
    """The charges that stand, by saga."""
    charges = (await client.get(f"{chain.psp.url}/charges"))["charges"]
    standing: Counter[str] = Counter()
    for charge in charges:
        standing[charge["key"].split(":", 1)[0]] += charge["standing"]
    return standing


@pytest.mark.kit("F20")
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.timeout(900)
async def test_the_books_balance_behind_a_real_nginx(
    behind_nginx: ChainBehindNginx, strikes: Strikes
) -> None:
    """Every order that stands has its charge and its parcel, and no other has either."""
    chain, places = behind_nginx, asyncio.Semaphore(AT_A_TIME)
    async with Client(chain.payment.url, chain.keys) as client:
        for kind, seconds in KINDS.items():
            if seconds is not None:
                script = {"script": "slow", "seconds": seconds, "match": kind}
                await client.script(chain.shipping, script)
        await asyncio.gather(*(place(chain, client, places, saga) for saga in saga_ids(SAGAS)))
        ids = await until_struck(chain, client, places)
        books = await books_at_rest(chain, client)
        charges = await charges_of(chain, client)

    wrong = []
    ends: Counter[str] = Counter()
    for saga in ids:
        state = books["order"][saga]["state"]
        parcel = books["shipping"].get(saga, {"standing": 0, "executed": 0})
        stands = int(state == "completed")
        ends[state] += 1
        if (stands, stands) != (charges[saga], parcel["standing"]) or parcel["executed"] > 1:
            wrong.append(f"{saga}: order {state}, charge {charges[saga]}, parcel {parcel}")
    answers = chain.nginx.own_answers()
    note = f"{dict(ends)}; nginx itself answered {dict(answers)}"
    strikes.report("sagas", len(ids), violations=len(wrong), note=note)
    assert [] == wrong
    assert {"completed", "compensated"} == set(ends), "nothing is left for a person"
    assert OWN_PAGES <= set(answers), "each of its own pages struck"


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_a_gateway_that_caches_shows_no_earlier_state(tmp_path: Path) -> None:
    """A neighbour that asks for a saga decides by what it is shown, and a list has to be whole."""
    (door,) = free_ports(1)
    async with running_chain(tmp_path) as chain:
        behind = urlsplit(chain.stage).port
        assert behind is not None
        nginx = Nginx(tmp_path, {door: behind}, CACHING)
        await nginx.start()
        try:
            shared = f"{url(door)}/sagas?since=2026-01-01T00:00:00Z&with=order"
            saga = f"{url(door)}/sagas/s-1"
            assert 404 == (await chain.request("GET", saga))[0]
            assert [] == (await chain.get(shared))["sagas"]
            assert 200 == (await chain.send("s-1"))[0]
            assert "completed" == (await chain.get(saga))["state"]
            assert ["s-1"] == [each["saga_id"] for each in (await chain.get(shared))["sagas"]]
        finally:
            await nginx.stop()
