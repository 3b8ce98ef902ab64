"""The author's side of a unit: a few methods, and no way to the connection.

The methods are closures over the unit's `Part`, so that no attribute leads there. This protects
against a slip, not against an author who takes functions apart: their code runs in our process.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache
from typing import Any, Final

from stage.ports.store import Row, Tx
from stage.store.errors import StatementRefused, TooManyRows
from stage.store.sqlite.part import Part

FETCH_ROWS_MAX: Final = 10_000
"""Rows that `Tx.fetchall` returns at most."""

_REFUSED: Final = frozenset(
    {
        "BEGIN",
        "COMMIT",
        "END",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "ATTACH",
        "DETACH",
        "PRAGMA",
        "VACUUM",
    }
)
_READS: Final = frozenset({"SELECT", "VALUES"})
"""Statements that begin with one of these words write nothing; one with `WITH` may."""
_FIRST_WORD: Final = re.compile(r"(?:[\s\ufeff]|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
"""White space, empty statements and comments, as SQLite skips them, then a word."""

_NUMBERED: Final = re.compile(r"\$[1-9]")


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
    """The author's view of a unit. The first statement that may write is announced to the part."""

    def run(sql: str, parameters: tuple[Any, ...]) -> sqlite3.Cursor:
        checked, numbered, reads = _checked(sql)
        if not reads:
            part.author_writes()
        if numbered and parameters:
            named = {str(number): value for number, value in enumerate(parameters, 1)}
            return part.run(checked, named)
        return part.run(checked, parameters)

    async def execute(sql: str, *parameters: Any) -> int:
        """See ports.store.Tx."""
        return run(sql, parameters).rowcount

    async def executemany(sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """See ports.store.Tx."""
        for row in rows:
            run(sql, tuple(row)).close()

    async def fetchone(sql: str, *parameters: Any) -> Row | None:
        """See ports.store.Tx."""
        found = part.fetch(run(sql, parameters), 1)
        return found[0] if found else None

    async def fetchval(sql: str, *parameters: Any) -> Any:
        """See ports.store.Tx."""
        found = await fetchone(sql, *parameters)
        return None if found is None else found[0]

    async def fetchall(sql: str, *parameters: Any) -> list[Row]:
        """See ports.store.Tx. Raises TooManyRows beyond FETCH_ROWS_MAX."""
        found = part.fetch(run(sql, parameters), FETCH_ROWS_MAX + 1)
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
def _checked(sql: str) -> tuple[str, bool, bool]:
    """The statement, whether its parameters are numbered, as `$1`, and whether it only reads.

    Checked once: an author runs the same few again and again.
    """
    match = _FIRST_WORD.match(sql)
    word = match.group(1).upper() if match else ""
    if word in _REFUSED:
        raise StatementRefused(
            f"{word} is refused in a transaction function: the transaction is begun and ended for"
            " it, and other sagas share it. Return to commit, raise to roll back"
        )
    return sql, _NUMBERED.search(sql) is not None, word in _READS
