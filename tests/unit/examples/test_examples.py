"""The examples of the docs bind, keep their plan, and run."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from examples.inventory.stage import inventory
from stage.bootstrap import build_app
from stage.config import Config
from stage.core.order import waves as waves_of
from stage.testing import SpanCollector, Spans, SpanSeen
from stage.wire.envelope import Envelope, encode_envelope

GROUP = ("ask_north", "ask_south")


class World:
    """The two carriers and the depot: what they were asked, by path and key."""

    def __init__(self, *, pickup_status: int = 200) -> None:
        self.offers: set[str] = set()
        self.released: set[str] = set()
        self.pickups: list[Any] = []
        self._pickup_status = pickup_status

    def make_app(self, price: int) -> web.Application:
        """One of the three; the carriers differ in price."""

        async def quotes(request: web.Request) -> web.Response:
            self.offers.add(request.headers["Idempotency-Key"])
            return web.json_response({"quote_id": f"q-{price}", "price": price})

        async def releases(request: web.Request) -> web.Response:
            self.released.add((await request.json())["key"])
            return web.json_response({"released": True})

        async def pickups(request: web.Request) -> web.Response:
            if self._pickup_status != 200:
                return web.json_response({"code": "closed"}, status=self._pickup_status)
            self.pickups.append(await request.json())
            return web.json_response({"pickup_id": "p-1"})

        app = web.Application()
        app.router.add_post("/quotes", quotes)
        app.router.add_post("/releases", releases)
        app.router.add_post("/pickups", pickups)
        return app


def test_the_inventory_stage_binds_as_its_docs_say() -> None:
    """The carriers are asked together, the pickup is the pivot, nothing behind it is undone."""
    plan = inventory.bind(("delivery",)).plan

    waves = [tuple(step.name for step in wave) for wave in waves_of(plan)]
    assert [("take",), GROUP, ("choose",), ("order_pickup",), ("close",)] == waves[:-1]
    assert ("forward:delivery",) == waves[-1]
    assert plan.pivot is not None
    assert "order_pickup" == plan.steps[plan.pivot].name
    assert plan.step("order_pickup").probed
    undone = {step.name for step in plan.steps if step.compensatable}
    assert {"take", *GROUP, "forward:delivery"} == undone


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind: the author's SQL is the same on both."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'inventory.db'}"


@pytest.mark.parametrize(
    "pickup_status, code, free, state",
    [(200, 200, 7, "sent"), (409, 409, 10, "released")],
    ids=["completed", "refused at the pivot"],
)
async def test_the_inventory_stage_runs(
    database: str, pickup_status: int, code: int, free: int, state: str
) -> None:
    """The cheaper carrier is sent; refused by the depot, the offers and the stock go back."""
    world = World(pickup_status=pickup_status)
    async with (
        TestServer(world.make_app(5)) as north,
        TestServer(world.make_app(4)) as south,
        TestServer(world.make_app(0)) as depot,
    ):
        peers = {"north": north, "south": south, "depot": depot}
        urls = {name: str(server.make_url("")).rstrip("/") for name, server in peers.items()}
        config = Config(auth="none", database=database, externals=urls)
        spans = SpanCollector()
        app = build_app(inventory, config, tracer_provider=spans.provider)
        async with TestServer(app) as server:
            answer = await _send(str(server.make_url("/sagas")))
            run = await spans.until("saga inventory")

    assert code == answer["status"]
    _check_trace(spans.is_one_trace(), run, undone=code != 200)
    assert (free, state) == await _rows(database)
    assert 2 == len(world.offers)
    if code == 200:
        added = {"pickup_id": "p-1", "carrier": "south", "price": 4}
        assert {"inventory": added} == answer["body"]["data"]
        assert [{"carrier": "south", "quote_id": "q-4"}] == world.pickups
        assert set() == world.released
    else:
        assert world.offers == world.released


def _check_trace(spans: Spans, run: SpanSeen, *, undone: bool) -> None:
    """The offers are asked for at the same time; each that goes back links to its own."""
    quotes = [spans.one(f"step {step}").below(run) for step in GROUP]
    assert max(quote.began for quote in quotes) < min(quote.ended for quote in quotes)
    for step, quote in zip(GROUP, quotes, strict=True):
        if undone:
            spans.one(f"compensate {step}").below(run).links_to_only(quote)
        else:
            spans.none(f"compensate {step}")


async def _send(url: str) -> dict[str, Any]:
    body = encode_envelope(Envelope(saga_id="i-1", data={"sku": "tea", "pieces": 3}))
    headers = {"Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        return {"status": response.status, "body": await response.json(content_type=None)}


async def _rows(database: str) -> tuple[int, str]:
    """The books of the author: pieces on the shelf, state of the allocation."""
    free, state = "SELECT free FROM stock", "SELECT state FROM allocation"
    if database.startswith("postgresql:"):
        server = await asyncpg.connect(database)
        try:
            return await server.fetchval(free), await server.fetchval(state)
        finally:
            await server.close()
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
        return file.execute(free).fetchone()[0], file.execute(state).fetchone()[0]
