"""The author's side of a unit on SQLite: how a statement of theirs is run."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from stage.ports.store import Row, Tx
from stage.store import author_sql
from stage.store.hints import explain
from stage.store.sqlite.part import Part

_REFUSED: Final = author_sql.ENDING | {"ATTACH", "DETACH", "PRAGMA"}
_READS: Final = frozenset({"SELECT", "VALUES"})
"""Statements that begin with one of these words write nothing; one with `WITH` may."""
_NUMBERED: Final = re.compile(r"\$[1-9]")


def author_tx(part: Part) -> Tx:
    """The author's view of a unit. The first statement that may write is announced to the part."""

    def run(sql: str, parameters: tuple[Any, ...]) -> sqlite3.Cursor:
        checked, numbered, reads = _checked(sql)
        if not reads:
            part.author_writes()
        try:
            return part.run(checked, _given(parameters, numbered=numbered))
        except sqlite3.Error as error:
            explain(error, sql, parameters)
            raise

    async def execute(sql: str, *parameters: Any) -> int:
        """See ports.store.Tx."""
        return run(sql, parameters).rowcount

    async def executemany(sql: str, rows: Iterable[Iterable[Any]]) -> None:
        """See ports.store.Tx."""
        for row in rows:
            run(sql, tuple(row)).close()

    async def fetch(sql: str, parameters: tuple[Any, ...], most: int) -> list[Row]:
        return part.fetch(run(sql, parameters), most)

    return author_sql.author_tx(execute, executemany, fetch)


def binding(sql: str, parameters: tuple[Any, ...]) -> tuple[str, tuple[Any, ...] | dict[str, Any]]:
    """A statement and its parameters as SQLite takes them. Raises StatementRefused."""
    checked, numbered, _ = _checked(sql)
    return checked, _given(parameters, numbered=numbered)


def _given(parameters: tuple[Any, ...], *, numbered: bool) -> tuple[Any, ...] | dict[str, Any]:
    if numbered and parameters:
        return {str(number): value for number, value in enumerate(parameters, 1)}
    return parameters


@lru_cache(maxsize=1024)
def _checked(sql: str) -> tuple[str, bool, bool]:
    """The statement, whether its parameters are numbered, as `$1`, and whether it only reads.

    Checked once: an author runs the same few again and again.
    """
    word = author_sql.refuse_first_word(sql, _REFUSED)
    return sql, _NUMBERED.search(sql) is not None, word in _READS
