"""The author's side of a unit on PostgreSQL: a few methods, and no way to the connection."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache
from typing import Any, Final

from stage.core.errors import StageError
from stage.ports.store import Row, Tx
from stage.store.errors import StatementRefused, TooManyRows
from stage.store.hints import explain
from stage.store.postgres.part import Part

FETCH_ROWS_MAX: Final = 10_000
"""Rows that `Tx.fetchall` returns at most."""

_REFUSED: Final = frozenset(
    {
        "BEGIN",
        "START",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "SAVEPOINT",
        "RELEASE",
        "PREPARE",
        "SET",
        "RESET",
        "DISCARD",
        "LISTEN",
        "UNLISTEN",
        "NOTIFY",
        "VACUUM",
        "ATTACH",
        "DETACH",
        "PRAGMA",
    }
)
_FIRST_WORD: Final = re.compile(r"(?:[\s\ufeff]|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
_COUNT: Final = re.compile(r"(\d+)$")
"""At the end of the server's word, such as INSERT 0 3."""


class _AuthorTx:
    """ports.store.Tx of one unit. Once the unit is over, every method raises."""

    __slots__ = ("execute", "executemany", "fetchall", "fetchone", "fetchval")

    execute: Callable[..., Coroutine[Any, Any, int]]
    executemany: Callable[..., Coroutine[Any, Any, None]]
    fetchone: Callable[..., Coroutine[Any, Any, Row | None]]
    fetchval: Callable[..., Coroutine[Any, Any, Any]]
    fetchall: Callable[..., Coroutine[Any, Any, list[Row]]]


# Long because its methods are closures over the part.
def author_tx(part: Part) -> Tx:
    """The author's view of a unit. The first statement marks the place it can be undone to."""

    async def run(sql: str, parameters: tuple[Any, ...]) -> tuple[list[Row], str]:
        try:
            return await part.author(_checked(sql), parameters)
        except StageError:
            raise
        except Exception as error:
            explain(error, sql, parameters)
            raise

    async def execute(sql: str, *parameters: Any) -> int:
        """See ports.store.Tx."""
        _, word = await run(sql, parameters)
        count = _COUNT.search(word)
        return int(count[1]) if count else -1

    async def executemany(sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """See ports.store.Tx."""
        for row in rows:
            await run(sql, tuple(row))

    async def fetchone(sql: str, *parameters: Any) -> Row | None:
        """See ports.store.Tx."""
        found, _ = await run(sql, parameters)
        return found[0] if found else None

    async def fetchval(sql: str, *parameters: Any) -> Any:
        """See ports.store.Tx."""
        found = await fetchone(sql, *parameters)
        return None if found is None else found[0]

    async def fetchall(sql: str, *parameters: Any) -> list[Row]:
        """See ports.store.Tx. Raises TooManyRows beyond FETCH_ROWS_MAX."""
        found, _ = await run(sql, parameters)
        if len(found) > FETCH_ROWS_MAX:
            raise TooManyRows(
                f"the query found more than {FETCH_ROWS_MAX} rows: add a LIMIT and page through"
                f" them, or let the database count: {sql.strip()[:120]}"
            )
        return found

    tx = _AuthorTx()
    tx.execute, tx.executemany = execute, executemany
    tx.fetchone, tx.fetchval, tx.fetchall = fetchone, fetchval, fetchall
    return tx


@lru_cache(maxsize=1024)
def _checked(sql: str) -> str:
    """The statement itself, checked once: an author runs the same few again and again."""
    match = _FIRST_WORD.match(sql)
    word = match.group(1).upper() if match else ""
    if word in _REFUSED:
        raise StatementRefused(
            f"{word} is refused in a transaction function: the transaction is begun and ended for"
            " it, and other sagas share it. Return to commit, raise to roll back"
        )
    return sql
