"""A stage of several workers, one of whose files is lost and put back from a backup.

Both workers run in one event loop, each with the application, the file and the door that it has in
a process of its own.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from stage.bootstrap import build_app, open_database
from stage.bootstrap.database import database_file, migration_folders
from stage.bootstrap.seat import Seat
from stage.bootstrap.wiring import Served
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment
from stage.engine.workers.placement import Placement, home_of
from stage.store.sqlite.file_set import member_path, prepare_files
from stage.wire.envelope import parse_instant
from tests.scenario.chain import HOST, Chain
from tests.scenario.restored import AS_OF, RestoredChain, restored_chain
from tests.scenario.test_live_reconcile import ask
from tests.scenario.test_reconcile import compensated
from tests.scenario.test_sweeps import post

pytestmark = pytest.mark.blocking

HERE, THERE = (
    [each for each in (f"s-{n}" for n in range(40)) if home_of(each, 2) == home] for home in (0, 1)
)
"""Sagas at home at worker 0 and at worker 1, of two."""


class Workers:
    """Payment with a file for each of its workers."""

    def __init__(self, world: RestoredChain, folder: Path) -> None:
        self.world = world
        self._folder = folder
        self.chain = world.chain

    @asynccontextmanager
    async def serving(self, workers: int = 2) -> AsyncIterator[list[Chain]]:
        """All workers are up within; the chain knows the first one, others are asked for."""
        config = replace(self.world.config, workers=workers)
        file = database_file(payment, config)
        placement = Placement(prepare_files(file, migration_folders(payment), workers).sizes)
        ports = (self.world.ports["payment"], *[0] * (placement.members - 1))
        seats = [
            Seat(
                index=index,
                processes=placement.members,
                folder=self._folder,
                placement=placement,
                first=file.path,
            )
            for index in range(placement.members)
        ]
        servers = [
            TestServer(
                build_app(payment, self.config(seat.index), served=Served(listens=True, seat=seat)),
                host=HOST,
                port=port,
            )
            for seat, port in zip(seats, ports, strict=True)
        ]
        try:
            for server in servers:
                await server.start_server(shutdown_timeout=0.1)
            yield [self._at(str(server.make_url("")).rstrip("/")) for server in servers]
        finally:
            for server in servers:
                await server.close()

    def _at(self, url: str) -> Chain:
        chain = self.chain
        urls = {"order": chain.order, "payment": url, "shipping": chain.shipping, "psp": chain.psp}
        return Chain(chain.session, urls)

    def config(self, member: int) -> Config:
        """That of one worker, and of a command for its file."""
        path = member_path(self.world.path, member)
        return replace(self.world.config, database=f"sqlite:///{path}")

    def back_up(self, member: int) -> Path:
        """A copy of the file of a worker."""
        path = member_path(self.world.path, member)
        copy = self._folder / f"copy-{member}"
        with closing(sqlite3.connect(path)) as now, closing(sqlite3.connect(copy)) as old:
            now.backup(old)
        return copy

    def put_back(self, member: int, copy: Path) -> None:
        """Put the copy back while nobody serves, and say so."""
        path = member_path(self.world.path, member)
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, path)
        with open_database(payment, self.config(member)) as database:
            database.restored(parse_instant(AS_OF))

    def release(self, member: int) -> None:
        """As `stage db released`."""
        with open_database(payment, self.config(member)) as database:
            database.released(("order", "shipping"))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Workers]:
    async with restored_chain(tmp_path) as world:
        yield Workers(world, tmp_path)


async def outcome(chain: Chain, saga_id: str) -> tuple[int, Any]:
    """The code of a look at the saga, and the outcome that it is answered with."""
    url = f"{chain.stage}/sagas/{saga_id}"
    status, _, body = await chain.request("GET", url)
    return status, msgspec.json.decode(body).get("outcome")


async def test_a_file_that_was_put_back_is_reconciled_among_the_others(stage: Workers) -> None:
    """Its lost sagas are unknown at every worker, those of the others are as they were."""
    lost, kept = THERE[:3], HERE[:3]
    async with stage.serving():
        assert 200 == await stage.world.order(THERE[3])
        await stage.chain.get(f"{stage.chain.stage}/sagas")
        copy = stage.back_up(1)
        for saga_id in (*lost, *kept):
            assert 200 == await stage.world.order(saga_id)
    stage.put_back(1, copy)
    async with stage.serving() as workers:
        for worker in workers:
            assert (503, "unknown") == await outcome(worker, lost[0])
            assert (200, "executed") == await outcome(worker, kept[0])
        assert 503 == (await workers[0].compensate(lost[0]))[0]
        _, found = await ask(workers[0], dry_run=True)
        assert lost == [each["saga_id"] for each in found["sagas"]]
        _, found = await ask(workers[0], compensate=True, rate_per_second=100)
        assert (3, 3) == (found["missing"], found["adopted"])
        for saga_id in lost:
            for worker in workers:
                await compensated(worker, saga_id)
        assert (7, 4) == await stage.chain.charges()
    stage.release(1)
    async with stage.serving() as workers:
        for saga_id in lost:
            for worker in workers:
                assert 200 != (await worker.send(saga_id))[0]
        assert (7, 4) == await stage.chain.charges()


async def test_a_lost_file_is_not_released_before_its_neighbours_were_asked(
    stage: Workers,
) -> None:
    """Nor are new sagas begun elsewhere meanwhile that may have been in it."""
    async with stage.serving(1):
        await stage.chain.get(f"{stage.chain.stage}/sagas")
        copy = stage.back_up(0)
        assert 200 == await stage.world.order(THERE[0])
        assert (1, 1) == await stage.chain.charges()
    async with stage.serving(2):
        assert 200 == await stage.world.order(THERE[1])
    stage.put_back(0, copy)
    with pytest.raises(ConfigurationError, match="order, shipping were not asked"):
        stage.release(0)
    async with stage.serving(2) as workers:
        for worker in workers:
            assert (200, "executed") == await outcome(worker, THERE[1])
            assert 503 == (await worker.send(THERE[0]))[0]
            assert 503 == (await worker.send(THERE[2]))[0]
        _, found = await ask(workers[1])
        assert [THERE[0]] == [each["saga_id"] for each in found["sagas"]]
    stage.release(0)
    async with stage.serving(2) as workers:
        assert 200 != (await workers[1].send(THERE[0]))[0]
        assert (2, 2) == await stage.chain.charges()


async def test_a_file_that_was_put_back_holds_what_the_others_hold(stage: Workers) -> None:
    """An API that charges twice stays held at every worker, and any of them ends that pause."""
    before, since = ({"target": target} for target in ("downstreams.shipping", "intake"))
    async with stage.serving() as chains:
        await post(chains[0], "/pauses", **before, seconds=600)
        copy = stage.back_up(1)
        await post(chains[0], "/pauses/end", **before)
        await post(chains[0], "/pauses", **since, seconds=600)
    stage.put_back(1, copy)
    async with stage.serving() as chains:
        assert [["intake"], ["intake"]] == [await held(chain) for chain in chains]
        assert 200 == (await post(chains[1], "/pauses/end", **since))[0]
        assert [[], []] == [await held(chain) for chain in chains]


async def held(chain: Chain) -> list[str]:
    """The targets that are paused at one worker."""
    return [each["target"] for each in (await chain.get(f"{chain.stage}/pauses"))["pauses"]]
