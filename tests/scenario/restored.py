"""A chain in which payment alone is stopped, restored from a backup, and started again."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Stage
from stage.bootstrap import build_app, open_database, reconcile
from stage.config import Config
from stage.demo import psp as psp_service
from stage.demo.payment import payment
from stage.engine.reconcile import Reconciliation
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.upstream.app import make_app as make_upstream
from stage.wire.envelope import parse_instant
from tests.kept_port import kept_port
from tests.scenario.chain import HOST, ORDER, SERVICES, Chain

AS_OF = "2020-01-01T00:00:00Z"


class RestoredChain:
    """order, shipping and psp, which keep their books while payment loses its own."""

    def __init__(self, folder: Path, chain: Chain, ports: dict[str, int]) -> None:
        self.chain = chain
        self.stage: Stage[Any, Any] = payment
        """The release that is deployed."""
        self.path = folder / "payment.db"
        self._copy = folder / "copy.db"
        self.ports = ports
        self.config = Config(
            auth="none",
            service_name="payment",
            database=f"sqlite:///{self.path}",
            upstreams={"order": chain.order},
            downstreams={"shipping": chain.shipping},
            externals={"psp": chain.psp},
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Chain]:
        """Payment is up within."""
        app = build_app(self.stage, self.config)
        async with _served(app, self.ports["payment"]):
            yield self.chain

    async def order(self, saga_id: str) -> int:
        """An order through the head of the chain; the code of its answer."""
        body = msgspec.json.encode(ORDER)
        url = f"{self.chain.order}/orders"
        return (await self.chain.request("POST", url, body, Saga_Id=saga_id))[0]

    async def back_up(self) -> None:
        """Copy the database while payment is up and all that was answered is in it.

        An answer does not wait for the last commit (decision 0011); a list does.
        """
        await self.chain.get(f"{self.chain.stage}/sagas")
        with (
            closing(sqlite3.connect(self.path)) as now,
            closing(sqlite3.connect(self._copy)) as old,
        ):
            now.backup(old)

    def adopt_copy(self, copy: Path) -> None:
        """Take this copy for the backup."""
        shutil.copy(copy, self._copy)

    def put_back(self, as_of: str = AS_OF) -> None:
        """Put the copy back while payment is stopped, and say so."""
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copy(self._copy, self.path)
        with open_database(self.stage, self.config) as database:
            database.restored(parse_instant(as_of))

    async def reconcile(
        self,
        *,
        dry_run: bool = False,
        since: str | None = None,
        **without: str,
    ) -> Reconciliation:
        """As `stage reconcile`."""
        instant = None if since is None else parse_instant(since)
        return await reconcile(
            *(self.stage, self.config),
            since=instant,
            without=without,
            dry_run=dry_run,
        )

    def release(self, given_up: Mapping[str, str] | None = None) -> None:
        """As `stage db released`."""
        with open_database(self.stage, self.config) as database:
            database.released((*self.config.upstreams, *self.config.downstreams), given_up)


@asynccontextmanager
async def restored_chain(folder: Path) -> AsyncIterator[RestoredChain]:
    """The neighbours are up; payment is not."""
    async with AsyncExitStack() as stack:
        ports = {name: stack.enter_context(kept_port()) for name in SERVICES}
        urls = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
        apps = {
            "psp": psp_service.make_app(),
            "shipping": make_downstream(name="shipping", upstream=urls["payment"]),
            "order": make_upstream(name="order", stage=urls["payment"]),
        }
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for name, app in apps.items():
            await stack.enter_async_context(_served(app, ports[name]))
        yield RestoredChain(folder, Chain(session, urls), ports)


@asynccontextmanager
async def _served(app: web.Application, port: int) -> AsyncIterator[None]:
    server = TestServer(app, host=HOST, port=port)
    await server.start_server(shutdown_timeout=0.1)
    try:
        yield
    finally:
        await server.close()
