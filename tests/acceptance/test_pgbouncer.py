"""Two replicas behind a real PgBouncer in transaction mode, with fewer connections than they hold.

No package index has PgBouncer as a wheel: it is that of the distribution (`apt-get install
pgbouncer`), and without it the test is skipped.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from stage.demo.chain import LOOPBACK, free_ports
from stage.demo.postgres_server import Server
from tests.acceptance.kills.http1 import Peer, request_bytes
from tests.acceptance.replicas.callers import duplicate
from tests.acceptance.replicas.zombies import Pair

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
START_SECONDS_MAX = 60.0
SAGAS = 60
CONNECTIONS = 5
"""To the server, for all: one replica alone holds up to eight."""
CONFIGURATION = """
[databases]
* = host={host} port={behind} user=stage
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 100
admin_users = stage
logfile = {folder}/pgbouncer.log
"""
UNDO = b'{"requested_by":"order","reason":"late"}'


class Pooler:
    """One PgBouncer before one server."""

    def __init__(self, folder: Path, server: Server) -> None:
        (self.port,) = free_ports(1)
        self._configuration = folder / "pgbouncer.ini"
        self._configuration.write_text(
            CONFIGURATION.format(
                host=LOOPBACK,
                behind=server.port,
                port=self.port,
                connections=CONNECTIONS,
                folder=folder,
            )
        )
        self._process: Process | None = None

    def url(self, database: str) -> str:
        """The URL of a database behind it, as the operator's page has it."""
        return f"postgresql://stage@{LOOPBACK}:{self.port}/{database}?statement_cache=0"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Running within."""
        assert PGBOUNCER is not None
        command = [PGBOUNCER, "-q", str(self._configuration)]
        if os.geteuid() == 0:  # it refuses root, as the server does
            command = ["unshare", "--user", "--map-user=1000", "--map-group=1000", *command]
        process = await asyncio.create_subprocess_exec(*command)
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                while not await self._open():
                    assert process.returncode is None, "PgBouncer ended"
                    await asyncio.sleep(0.02)
            yield
        finally:
            process.terminate()
            await process.wait()

    async def _open(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(LOOPBACK, self.port)
        except OSError:
            return False
        writer.close()
        return True


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
@pytest.mark.timeout(110)
async def test_two_replicas_work_behind_a_pooler_in_transaction_mode(
    tmp_path: Path, postgres: Server, postgres_url: str
) -> None:
    """Sagas, duplicates at the other replica, an undo; nothing needs a session of the server."""
    name = postgres_url.rpartition("/")[2]
    pooler = Pooler(tmp_path, postgres)
    ids = [f"k8-{number}" for number in range(SAGAS)]
    async with pooler.running():
        pair = Pair(tmp_path, pooler.url(name))
        async with pair.running():
            answers = await asyncio.gather(
                *(pair.place(saga_id, "ab"[place % 2]) for place, saga_id in enumerate(ids))
            )
            assert {200, 409} >= {status for status, _ in answers}
            peers = [Peer(pair.ports[each]) for each in "ab"]
            for place, saga_id in enumerate(ids):
                again = await peers[1 - place % 2].ask(duplicate(saga_id), 10.0)
                assert answers[place] == (again.status, again.body)
            undo = request_bytes("POST", f"/sagas/{ids[0]}/compensate", UNDO)
            assert 200 == (await peers[1].ask(undo, 10.0)).status
            for peer in peers:
                peer.close()
            assert CONNECTIONS >= await _connections(postgres_url)
        assert {} == {
            saga_id: count
            for saga_id, count in await _standing(postgres_url)
            if (count > 0) != (saga_id in pair.outside.tail.standing)
        }


async def _connections(url: str) -> int:
    """How many the server has of this database, this one left out."""
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        return int(await connection.fetchval(query)) - 1
    finally:
        await connection.close()


async def _standing(url: str) -> list[tuple[str, int]]:
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT saga_id, sum(direction) FROM ledger WHERE step = 'reserve' GROUP BY 1"
        return [(row[0], int(row[1])) for row in await connection.fetch(query)]
    finally:
        await connection.close()
