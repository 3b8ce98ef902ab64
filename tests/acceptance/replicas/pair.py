"""A primary and its standby, from the same wheel as every server of the tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from stage.demo.postgres_server import Server, wheel
from tests.processes import children

ATTACH_SECONDS_MAX = 60.0
STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
SYNCHRONOUS = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"


class Pair:
    """Two servers with one database. `url` names both, as a stage is told of them."""

    def __init__(self, folder: Path) -> None:
        # A SIGKILL takes nothing from what was written: it need not be synced to survive.
        self.primary = _Member(wheel(), folder / "primary", "fsync=off")
        self.standby = _Member(wheel(), folder / "standby", "fsync=off")

    @property
    def url(self) -> str:
        """Both servers; the one that can be written to is taken."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in (self.primary, self.standby))
        return f"postgresql://stage@{hosts}/postgres"

    async def start(self, *, synchronous: bool) -> None:
        """Start both, the standby as a copy that follows."""
        for each in (self.primary, self.standby):
            each.folder.mkdir()
        await asyncio.to_thread(self.primary.make)
        await asyncio.to_thread(self.primary.start)
        await asyncio.to_thread(self.standby.copy, self.primary)
        await asyncio.to_thread(self.standby.start)
        await self._until(STREAMING)
        if synchronous:
            await self._set("synchronous_standby_names", "*")
            await self._until(SYNCHRONOUS)

    async def _set(self, name: str, value: str, on: _Member | None = None) -> None:
        server = on or self.primary
        await asyncio.to_thread(server.sql, f"ALTER SYSTEM SET {name} = '{value}'")
        await asyncio.to_thread(server.sql, "SELECT pg_reload_conf()")

    async def _until(self, question: str) -> None:
        async with asyncio.timeout(ATTACH_SECONDS_MAX):
            while await asyncio.to_thread(self.primary.sql, question) != "1":  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def part(self) -> None:
        """Let the standby follow no more: what is committed from now on will be lost."""
        await self._set("primary_conninfo", "", on=self.standby)

    async def fail_over(self) -> None:
        """The machine of the primary is gone, and the standby takes its place."""
        await asyncio.to_thread(self.primary.vanish)
        await asyncio.to_thread(self.standby.sql, "SELECT pg_promote()")

    def stop(self) -> None:
        """Stop both."""
        for each in (self.primary, self.standby):
            each.stop()


class _Member(Server):
    """A server that can be copied, and that can vanish with all of its processes at once."""

    def __init__(self, programs: Path, folder: Path, *settings: str) -> None:
        super().__init__(programs, folder, *settings)
        self.folder = folder

    def copy(self, other: Server) -> None:
        """Make this one a standby of another."""
        options = ("-R", "-X", "stream", "-c", "fast", "--no-sync", "-U", "stage")
        to = ("-h", "127.0.0.1", "-p", str(other.port), "-D", str(self._data))
        self._run("pg_basebackup", *to, *options)

    def vanish(self) -> None:
        """SIGKILL of every process: no backend gets to answer any more."""
        assert self._process is not None
        everyone = [self._process.pid, *children(self._process.pid)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in everyone:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self._process.wait()
        self._process = None


@asynccontextmanager
async def running_pair(*, synchronous: bool) -> AsyncIterator[Pair]:
    """A primary and its standby, which are stopped and forgotten at the end."""
    folder = Path(tempfile.mkdtemp(prefix="stage-pair-"))
    pair = Pair(folder)
    try:
        await pair.start(synchronous=synchronous)
        yield pair
    finally:
        await asyncio.to_thread(pair.stop)
        shutil.rmtree(folder, ignore_errors=True)
