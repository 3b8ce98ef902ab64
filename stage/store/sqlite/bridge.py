"""One connection in a thread of aiosqlite, where whole functions are run."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Concatenate, Final, ParamSpec, TypeVar, cast

import aiosqlite

P = ParamSpec("P")
T = TypeVar("T")


class Bridge:
    """A sqlite3 connection that lives in its own thread. Opened once, closed once."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        """`connect` is called in the thread and returns a connection that is ready for use."""
        self._connect = connect
        self._raw: sqlite3.Connection | None = None
        self._thread: Final = aiosqlite.Connection(self._connected, iter_chunk_size=64)
        self._opening: asyncio.Task[None] | None = None

    def _connected(self) -> sqlite3.Connection:
        self._raw = self._connect()
        return self._raw

    async def open(self) -> None:
        """Start the thread and connect. Raises the error of `connect`, and then the thread ends.

        Cancelling the wait closes the connection once it is made.
        """
        self._opening = asyncio.get_running_loop().create_task(self._start())
        try:
            await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            await self.close()
            raise

    async def _start(self) -> None:
        try:
            _ = await self._thread
        except BaseException:
            # aiosqlite lets the thread end by itself, and it still calls the event loop.
            while self._thread._thread.is_alive():  # noqa: ASYNC110 - a thread tells nobody
                await asyncio.sleep(0.001)
            raise

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)` in the thread. Cancelling the wait does not stop it."""
        # A private name, used here alone: the public methods run one statement each, and the
        # writer is there to avoid a hop per statement.
        # tests/unit/store/test_bridge.py fails when aiosqlite drops it. It has no types.
        answer = await self._thread._execute(work, self._raw, *arguments, **options)  # type: ignore[no-untyped-call]
        return cast(T, answer)

    def interrupt(self) -> None:
        """Let a statement that runs there end with an error. From any thread."""
        if self._raw is not None:
            with suppress(sqlite3.ProgrammingError):
                self._raw.interrupt()

    async def close(self) -> None:
        """Close the connection and end the thread, after the work it still has to do.

        A connection that is still being made is waited for: aiosqlite would leave it open.
        """
        if self._opening is not None:
            with suppress(Exception):  # `open` raises it
                await asyncio.shield(self._opening)
        await self._thread.close()
