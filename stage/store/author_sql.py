"""The common part of an author's SQL on every database: its methods, refused words, limits.

How a statement is run is the business of each database: see `tx.py` in its folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Final

from stage.ports.store import Row
from stage.store.errors import StatementNotAwaited, StatementRefused, TooManyRows
from stage.store.hints import shown_statement

FETCH_ROWS_MAX: Final = 10_000
"""Rows that `Tx.fetchall` returns at most."""

ENDING: Final = frozenset({"BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE", "VACUUM"})
"""First words of statements that begin, end or divide a transaction, on every database."""

_FIRST_WORD: Final = re.compile(r"(?:[\s\ufeff]|;|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
"""White space, empty statements and comments, as a server skips them, then a word."""


class AuthorTx:
    """ports.store.Tx of one unit, as its database fills it. Once the unit is over, each raises.

    The methods are closures over the part of the unit, so that no attribute leads to it. This
    protects against a slip, not against an author who takes functions apart.
    """

    __slots__ = ("check_awaited", "execute", "executemany", "fetchall", "fetchone", "fetchval")

    check_awaited: Callable[[], None]
    execute: Callable[..., Coroutine[Any, Any, int]]
    executemany: Callable[..., Coroutine[Any, Any, None]]
    fetchone: Callable[..., Coroutine[Any, Any, Row | None]]
    fetchval: Callable[..., Coroutine[Any, Any, Any]]
    fetchall: Callable[..., Coroutine[Any, Any, list[Row]]]


Executemany = Callable[[str, Iterable[Iterable[Any]]], Coroutine[Any, Any, None]]
Fetch = Callable[[str, tuple[Any, ...], int], Coroutine[Any, Any, list[Row]]]
"""The rows of a statement with its parameters, at most so many."""


def author_tx(
    execute: Callable[..., Coroutine[Any, Any, int]], executemany: Executemany, fetch: Fetch
) -> AuthorTx:
    """The author's view of a unit, from the three ways in which a database runs a statement."""

    async def fetchone(sql: str, *parameters: Any) -> Row | None:
        """See ports.store.Tx."""
        found = await fetch(sql, parameters, 1)
        return found[0] if found else None

    async def fetchval(sql: str, *parameters: Any) -> Any:
        """See ports.store.Tx."""
        found = await fetch(sql, parameters, 1)
        return found[0][0] if found else None

    async def fetchall(sql: str, *parameters: Any) -> list[Row]:
        """See ports.store.Tx. Raises TooManyRows beyond FETCH_ROWS_MAX."""
        found = await fetch(sql, parameters, FETCH_ROWS_MAX + 1)
        if len(found) > FETCH_ROWS_MAX:
            raise TooManyRows(
                f"the query found more than {FETCH_ROWS_MAX} rows: add a LIMIT and page through"
                f" them, or let the database count: {sql.strip()[:120]}"
            )
        return found

    noted, check_awaited = _described()
    tx = AuthorTx()
    tx.execute, tx.executemany = noted(execute), noted(executemany)
    tx.fetchone, tx.fetchval, tx.fetchall = noted(fetchone), noted(fetchval), noted(fetchall)
    tx.check_awaited = check_awaited
    return tx


Run = Callable[..., Coroutine[Any, Any, Any]]


def _described() -> tuple[Callable[[Run], Run], Callable[[], None]]:
    """A door through which each statement of a unit is noted, and what refuses one that waits."""
    made: list[Any] = []
    """Coroutines of statements: the last one, and those before it that did not run."""

    def noted(run: Run) -> Run:
        def describe(sql: str, *parameters: Any) -> Coroutine[Any, Any, Any]:
            statement = run(sql, *parameters)
            if made and made[-1].cr_frame is None:  # it is over
                made[-1] = statement
            else:
                made.append(statement)
            return statement

        return describe

    def check_awaited() -> None:
        """See ports.store.Tx."""
        waiting = [each for each in made if getcoroutinestate(each) == CORO_CREATED]
        if not waiting:
            return
        sql = waiting[0].cr_frame.f_locals["sql"]
        for each in waiting:
            each.close()  # Python would warn of it at an odd time
        raise StatementNotAwaited(
            "a statement was not awaited, so it did not run: write await before it: in"
            f" {shown_statement(sql)}"
        )

    return noted, check_awaited


def refuse_first_word(sql: str, refused: frozenset[str]) -> str:
    """The first word. Raises StatementRefused where it would end the transaction, or leave it."""
    match = _FIRST_WORD.match(sql)
    word = match.group(1).upper() if match else ""
    if word in refused:
        raise StatementRefused(
            f"{word} is refused in a transaction function: the transaction is begun and ended for"
            " it, and other sagas share it. Return to commit, raise to roll back"
        )
    return word
