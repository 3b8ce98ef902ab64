"""The author's tables, for endpoints that stand beside a stage: reads, and nothing else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from aiohttp import web

from stage.core.errors import ConfigurationError
from stage.inbound.asgi import AsgiApplication
from stage.ports.store import Row, Store, Tx, Unit
from stage.store.author_sql import refuse_first_word
from stage.store.errors import StatementRefused

T = TypeVar("T")

READS: Final = frozenset({"SELECT", "VALUES"})


class Tables:
    """Runs one statement at a time, each as a unit of its own, among those of the sagas.

    A value is given once all that it was read from is durable. A statement that does not begin
    with SELECT or VALUES raises StatementRefused: a write belongs into a step of a saga. While the
    stage is not open, each raises StoreUnavailable.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def fetchone(self, sql: str, *parameters: Any) -> Row | None:
        """The first row, or None."""
        return await self._read(sql, lambda tx: tx.fetchone(sql, *parameters))

    async def fetchval(self, sql: str, *parameters: Any) -> Any:
        """The first value of the first row, or None."""
        return await self._read(sql, lambda tx: tx.fetchval(sql, *parameters))

    async def fetchall(self, sql: str, *parameters: Any) -> list[Row]:
        """All rows. Raises TooManyRows for more than a transaction may fetch."""
        return await self._read(sql, lambda tx: tx.fetchall(sql, *parameters))

    async def _read(self, sql: str, read: Callable[[Tx], Awaitable[T]]) -> T:
        if refuse_first_word(sql, frozenset()) not in READS:
            raise StatementRefused(
                "store_of reads alone, by SELECT or VALUES: write in a step of a saga, which is"
                " undone when the saga turns back"
            )

        async def work(unit: Unit) -> T:
            return await read(unit.tx)

        return await self._store.transact(work)


TABLES: web.AppKey[Tables] = web.AppKey("tables", Tables)
_of_asgi: dict[int, Tables] = {}
"""By the id of an ASGI application, while its lifespan lasts."""


def opened_for(app: AsgiApplication, tables: Tables) -> None:
    """The lifespan of an ASGI application has begun."""
    _of_asgi[id(app)] = tables


def closed_for(app: AsgiApplication) -> None:
    """It has ended."""
    _of_asgi.pop(id(app), None)


def store_of(app: web.Application | AsgiApplication) -> Tables:
    """The tables of the stage that `payment.app()` or `payment.asgi()` has made, to be read.

    Raises ConfigurationError for an application of another kind, such as the one around it, and
    for an ASGI application outside of its lifespan.
    """
    found = app.get(TABLES) if isinstance(app, web.Application) else _of_asgi.get(id(app))
    if found is None:
        raise ConfigurationError(
            "store_of takes what `await payment.app()` or `payment.asgi()` gave, and an ASGI"
            " application while its lifespan lasts: keep that one, not the application around it"
        )
    return found
