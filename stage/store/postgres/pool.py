"""A bounded number of connections for everything that is one statement: reads, claims, mail.

They are opened when they are needed and have no state, so that nothing is reset between two uses.
A connection that broke is closed; the next use opens another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter

from stage.core.errors import StoreUnavailable
from stage.ports.store import Row
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.errors import interrupted, unavailable
from stage.store.postgres.link import Link, connect
from stage.store.postgres.older_state import OlderState

WAIT_SECONDS_MAX = 10.0
"""How long a statement waits for a connection."""


class Pool:
    """At most `size` connections to one database."""

    def __init__(
        self,
        server: DatabaseServer,
        size: int,
        waited: Callable[[float], None] = lambda _: None,
        check: Callable[[Link], Awaitable[None]] | None = None,
        older: OlderState | None = None,
    ) -> None:
        """`waited` is notified of how many seconds each statement waited for a connection.

        `check` raises for a new connection to a database that is not to be read; while `older`
        holds there is none.
        """
        self._older = OlderState(server) if older is None else older
        self._found = 0
        self._server = server
        self._check = check
        self._waited = waited
        self._places = asyncio.Semaphore(size)
        self._idle: list[Link] = []
        self._open = False

    def open(self) -> None:
        """Let statements in."""
        self._open = True

    async def close(self) -> None:
        """Close what is idle; what is in use is closed after its statement."""
        self._open = False
        idle, self._idle = self._idle, []
        for link in idle:
            await link.close()

    async def fetch(self, name: str, *parameters: object) -> list[Row]:
        """The rows of a statement of ours. Raises StoreUnavailable."""
        began = perf_counter()
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await self._places.acquire()
        except TimeoutError:
            raise StoreUnavailable("all connections to the database are busy") from None
        finally:
            self._waited(perf_counter() - began)
        try:
            return await self._fetch(name, parameters)
        finally:
            self._places.release()

    async def _fetch(self, name: str, parameters: tuple[object, ...]) -> list[Row]:
        if not self._open:
            raise StoreUnavailable("the database is not open: try again later")
        older = self._older
        if self._found != older.found:
            self._found = older.found
            await self.drop_idle()
        before = older.found
        older.refuse(before)
        link = self._unused() or await self._connected()
        try:
            found = await link.fetch(name, *parameters)
            older.refuse(before)
        except BaseException as error:
            gone = unavailable(error, closed=link.closed)
            # The driver asks the server to cancel, and the next use would wait until it has.
            cancelled = isinstance(error, asyncio.CancelledError)
            await self._put_away(link, broken=cancelled or gone is not None)
            if gone is not None:
                await self.drop_idle()  # those have most likely lost the same server
                raise gone from error
            if (held := interrupted(error)) is not None:
                raise held from error
            raise
        await self._put_away(link, broken=False)
        return found

    def _unused(self) -> Link | None:
        """An idle connection. A server, and what stands before it, may have ended idle ones."""
        while self._idle:
            link = self._idle.pop()
            if not link.closed:
                return link
        return None

    async def _connected(self) -> Link:
        link = await connect(self._server)
        if self._check is not None:
            try:
                await self._check(link)
            except BaseException as error:
                await link.close()
                if (gone := unavailable(error) or interrupted(error)) is not None:
                    raise gone from error
                raise
        return link

    async def _put_away(self, link: Link, *, broken: bool) -> None:
        if broken or not self._open or link.closed:
            await link.close()
        else:
            self._idle.append(link)

    async def drop_idle(self) -> None:
        """Close what is idle: each new connection is looked at."""
        idle, self._idle = self._idle, []
        for link in idle:
            await link.close()
