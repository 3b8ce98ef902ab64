"""The chain of tests/scenario/chain.py whose stage is deployed anew while its world stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Http, Saga, Stage, Tx
from stage.bootstrap import build_app
from stage.config import Config
from stage.demo import psp as psp_service
from stage.demo.payment import Charge, Order
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.upstream.app import make_app as make_upstream
from tests.kept_port import kept_port
from tests.scenario.chain import BEGUN_ELSEWHERE, HOST, Chain

SERVICES = ("order", "payment", "shipping", "psp", "psp2")


def payment(
    name: str = "payment",
    *,
    to: str = "psp",
    step: str = "charge",
    undo: bool = True,
    **lineage: Any,
) -> Stage[Order, Charge]:
    """One release of the stage: its name, the step that charges, whom it asks, and its lineage."""
    stage: Stage[Order, Charge] = Stage(name, accepts=Order, **lineage)

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        pass

    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        return Charge(answer.json()["id"])

    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charged), "charge_id": None})

    charge.__name__ = step
    lost = "" if undo else "this release has lost it"
    charged = stage.call(to=to, timeout=5.0, reason=lost)(charge)
    if undo:
        charged.compensation(refund)
    return stage


class World:
    """Everything but the stage: it outlives every release."""

    def __init__(self, folder: Path, session: aiohttp.ClientSession, urls: dict[str, str]) -> None:
        self._folder = folder
        self._urls = urls
        self.chain = Chain(session, urls)

    @asynccontextmanager
    async def release(self, stage: Stage[Any, Any], **options: Any) -> AsyncIterator[Chain]:
        """The stage in that release, over the same database."""
        usual: dict[str, Any] = {
            "auth": "none",
            "database": f"sqlite:///{self._folder / 'payment.db'}",
            "upstreams": {"order": self._urls["order"]},
            "downstreams": {"shipping": self._urls["shipping"]},
            "externals": {name: self._urls[name] for name in ("psp", "psp2")},
            "drain_seconds": 0.1,
        }
        app = build_app(stage, Config(service_name="payment", **{**usual, **options}))
        port = int(self._urls["payment"].rpartition(":")[2])
        async with _serving(app, port):
            yield self.chain

    async def standing(self, api: str) -> tuple[int, int]:
        """Charges made and standing, by the books of that external API."""
        totals = (await self.chain.get(f"{self._urls[api]}/charges"))["totals"]
        return totals["made"], totals["standing"]


@asynccontextmanager
async def world_around(folder: Path) -> AsyncIterator[World]:
    """Two external APIs, an upstream and a downstream, with their books."""
    async with AsyncExitStack() as stack:
        ports = {name: stack.enter_context(kept_port()) for name in SERVICES}
        urls = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
        apps = {
            "psp": psp_service.make_app(),
            "psp2": psp_service.make_app(),
            "shipping": make_downstream(name="shipping", upstream=urls["payment"]),
            "order": make_upstream(name="order", stage=urls["payment"], script=BEGUN_ELSEWHERE),
        }
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for name, app in apps.items():
            await stack.enter_async_context(_serving(app, ports[name]))
        yield World(folder, session, urls)


@asynccontextmanager
async def _serving(app: web.Application, port: int) -> AsyncIterator[None]:
    server = TestServer(app, host=HOST, port=port)
    try:
        await server.start_server(shutdown_timeout=0.1)
        yield
    finally:
        await server.close()
