"""One connection in one thread of aiosqlite, and how whole functions are run there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
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

    def _connected(self) -> sqlite3.Connection:
        self._raw = self._connect()
        return self._raw

    async def open(self) -> None:
        """Start the thread and connect. Raises what `connect` raises, and the thread is over."""
        _ = await self._thread

    async def run(
        self,
        work: Callable[Concatenate[sqlite3.Connection, P], T],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> T:
        """Run `work(connection, ...)` in the thread. Cancelling the wait does not stop it."""
        # A private name, and the only place where it is used: the public methods run one
        # statement each, and a hop per statement is what the writer is there to avoid.
        # tests/unit/store/test_bridge.py fails when aiosqlite drops it. It has no types.
        answer = await self._thread._execute(work, self._raw, *arguments, **options)  # type: ignore[no-untyped-call]
        return cast(T, answer)

    async def close(self) -> None:
        """Close the connection and end the thread, after what it has still to do."""
        await self._thread.close()
