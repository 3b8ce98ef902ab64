"""One connection to the server: how it is made, and how a statement is run on it.

Nothing here keeps anything in a session of the server, so that a pooler may stand between: every
setting is made within the transaction it is for.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from stage.core.errors import StoreUnavailable
from stage.ports.store import Row
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.errors import away
from stage.store.postgres.statements import statement

CONNECT_SECONDS_MAX: Final = 5.0
STATEMENT_SECONDS_MAX: Final = 30.0
"""How long one statement may take. COMMIT has a limit of its own (COMMIT_SECONDS_MAX)."""
DROP_SECONDS_MAX: Final = 5.0
"""How long a transaction is rolled back; then its connection is closed, which does it too."""
STATEMENTS_CACHED: Final = 256
"""Prepared statements that a connection keeps: ours and, as many again, the author's."""
DRIVER_ERRORS: Final = (
    asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError,
)  # fmt: skip
"""All that the driver raises. The third one says, too, that all servers only read."""


async def connect(server: DatabaseServer) -> Link:
    """A new connection. Raises StoreUnavailable.

    `statement_cache=0` in the query of the URL is for a pooler in transaction mode.
    """
    parts = urlsplit(server.url)
    given = dict(parse_qsl(parts.query))
    cached = 0 if given.pop("statement_cache", "1") == "0" else STATEMENTS_CACHED
    given.setdefault("target_session_attrs", "read-write")
    dsn = urlunsplit(parts._replace(query=urlencode(given)))
    try:
        raw = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS_MAX, statement_cache_size=cached)
    except DRIVER_ERRORS as error:
        raise away(error) from error
    return Link(raw, cached, server)


class Link:
    """One connection, used by one task at a time."""

    __slots__ = ("_cached", "_names", "_prepared", "_server", "raw", "warned")

    def __init__(self, raw: Any, cached: int, server: DatabaseServer) -> None:
        self.raw = raw
        self._cached = cached
        self._server = server
        self._prepared: OrderedDict[str, Any] = OrderedDict()
        """The author's statements, the latest used last."""
        self._names = count(1)
        self.warned = ""
        """The last warning of the server (SQLSTATE 01000)."""
        raw.add_log_listener(self._listen)

    def _listen(self, _raw: Any, message: Any) -> None:
        if message.sqlstate == "01000":
            self.warned = str(message)

    async def another(self) -> Link:
        """One more connection to the same database. Raises StoreUnavailable."""
        return await connect(self._server)

    @property
    def pooled(self) -> bool:
        """Whether the URL says that a pooler in transaction mode stands between."""
        return not self._cached

    @property
    def closed(self) -> bool:
        """Whether it was closed, here or by the server."""
        return bool(self.raw.is_closed())

    @property
    def in_transaction(self) -> bool:
        """True from BEGIN to its end, also where the transaction is broken."""
        return not self.closed and bool(self.raw.is_in_transaction())

    async def script(self, name: str) -> None:
        """Run statements of ours without parameters."""
        await self.raw.execute(statement(name), timeout=STATEMENT_SECONDS_MAX)

    async def vacuum(self, name: str, table: str) -> bool:
        """Run a VACUUM FULL of ours, as long as it takes; False when the table was left as it is.

        It is left where it is in use, and where it belongs to another role, which the server says
        in a warning. Messages may be turned off, so that the file of the table counts.
        """
        self.warned = ""
        before = await self.fetch("file_of_table", table)
        await self.raw.execute(statement(name))
        return bool(before != await self.fetch("file_of_table", table))

    async def drop(self) -> None:
        """Roll back, as far as that is still possible. Raises nothing."""
        try:
            if self.in_transaction:
                await self.raw.execute(statement("drop_batch"), timeout=DROP_SECONDS_MAX)
        except DRIVER_ERRORS:
            self.raw.terminate()

    async def commit(self) -> str:
        """COMMIT; what the server said to it. Never cancelled."""
        return str(await self.raw.execute(statement("commit_batch")))

    async def fetch(self, name: str, *parameters: object) -> list[Row]:
        """The rows of a statement of ours."""
        found = await self.raw.fetch(statement(name), *parameters, timeout=STATEMENT_SECONDS_MAX)
        return [tuple(row) for row in found]

    async def settled(self, writer: str) -> int:
        """The number of the last batch of a writer that is durable, also on a synchronous standby.

        Raises StoreUnavailable where the wait for the standby was cancelled: the server says so in
        a warning, and answers all the same.
        """
        self.warned = ""
        ((number,),) = await self.fetch("settle_batch", writer)
        if self.warned:
            raise StoreUnavailable(
                f"PostgreSQL: {self.warned}; look at the synchronous standby, and at who cancels"
            )
        return int(number)

    async def author(self, sql: str, parameters: tuple[Any, ...]) -> tuple[list[Row], str]:
        """Run one statement of an author; its rows, and the word of the server about it."""
        prepared = self._prepared.get(sql)
        if prepared is None:
            # A statement without a name is forgotten at once: no other client can meet it.
            name = f"author_{next(self._names)}" if self._cached else ""
            prepared = await self.raw.prepare(sql, name=name, timeout=STATEMENT_SECONDS_MAX)
            if self._cached:
                self._prepared[sql] = prepared
                if len(self._prepared) > self._cached:
                    self._prepared.popitem(last=False)
        else:
            self._prepared.move_to_end(sql)
        try:
            found = await prepared.fetch(*parameters, timeout=STATEMENT_SECONDS_MAX)
        except asyncpg.InvalidCachedStatementError:
            self._prepared.clear()  # a table was changed, and others may be of it too
            raise
        except asyncpg.PostgresError:
            self._prepared.pop(sql, None)  # its plan may be the reason
            raise
        return [tuple(row) for row in found], str(prepared.get_statusmsg())

    async def close(self) -> None:
        """Close it, politely where the server still answers."""
        try:
            await self.raw.close(timeout=1.0)
        except DRIVER_ERRORS:
            self.raw.terminate()
