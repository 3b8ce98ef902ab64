"""The author's side of a unit on SQLite: how a statement of theirs is run."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from stage.ports.store import Row, Tx
from stage.store import author_sql
from stage.store.errors import StatementRefused
from stage.store.hints import explain, shown_statement
from stage.store.sqlite.part import Part

_REFUSED: Final = author_sql.ENDING | {"ATTACH", "DETACH", "PRAGMA"}
_Bound = tuple[str, tuple[Any, ...] | dict[str, Any]]
_READS: Final = frozenset({"SELECT", "VALUES"})
"""Statements that begin with one of these words write nothing; one with `WITH` may."""
_NUMBERED: Final = re.compile(r"\$[1-9]")
_PLACE: Final = re.compile(r"\$([1-9][0-9]*)(?![\w$:(])")
_LITERAL: Final = re.compile(r"('[^']*')")
_UNCLEAR: Final = re.compile(r"['\"`\[?:@#$]|--|/\*")
"""Signs that may hide a parameter, where literals and places are taken out."""


class _Statement(NamedTuple):
    """A statement of an author, looked at once: the same few are run again and again."""

    sql: str
    """With a space behind it, as no statement of ours has: sqlite3 keeps what it prepared by its
    text, and what was prepared for us was not judged by the guard."""
    reads: bool
    """It writes nothing."""
    numbered: bool
    """Its parameters are numbered, as `$1`: to sqlite3 these are names."""
    by_place: str
    """The SQL with places, which are bound in half the time; empty where that is not certain."""
    places: int


def author_tx(part: Part) -> Tx:
    """The author's view of a unit. The first statement that may write is announced to the part."""
    guard = part.guard

    def run(sql: str, parameters: tuple[Any, ...]) -> sqlite3.Cursor:
        checked = _checked(sql)
        if not checked.reads:
            part.author_writes()
        guard.judging, guard.alters = True, False
        try:
            return part.run(*_bound(checked, parameters))
        except sqlite3.Error as error:
            if refused := guard.take_refusal():
                raise StatementRefused(f"{refused}: in {shown_statement(sql)}") from None
            explain(error, sql, parameters)
            raise
        finally:
            guard.judging = False

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


def binding(sql: str, parameters: tuple[Any, ...]) -> _Bound:
    """A statement and its parameters as SQLite takes them.

    Raises StatementRefused, and sqlite3.ProgrammingError for more values than it has places.
    """
    return _bound(_checked(sql), parameters)


def _bound(checked: _Statement, parameters: tuple[Any, ...]) -> _Bound:
    if checked.places == len(parameters):
        return checked.by_place, parameters
    if 0 <= checked.places < len(parameters):  # given by name, what is too much would be dropped
        raise sqlite3.ProgrammingError(
            f"Incorrect number of bindings supplied: its last place is ${checked.places}, and"
            f" {len(parameters)} values are given"
        )
    if checked.numbered and parameters:
        return checked.sql, {str(number): value for number, value in enumerate(parameters, 1)}
    return checked.sql, parameters


@lru_cache(maxsize=1024)
def _checked(sql: str) -> _Statement:
    """The statement. Raises StatementRefused for one that would leave the transaction."""
    word = author_sql.refuse_first_word(sql, _REFUSED)
    marked = f"{sql} "
    by_place, places = _by_place(marked)
    return _Statement(marked, word in _READS, _NUMBERED.search(sql) is not None, by_place, places)


def _by_place(sql: str) -> tuple[str, int]:
    """The statement with `?1` for `$1`, and how many parameters that takes.

    Nothing, and -1, where a parser would be needed to tell.
    """
    parts = _LITERAL.split(sql)
    found = [int(number) for part in parts[::2] for number in _PLACE.findall(part)]
    if not found or not sql.isascii():
        return "", -1
    if any(_UNCLEAR.search(_PLACE.sub("", part)) for part in parts[::2]):
        return "", -1
    parts[::2] = [_PLACE.sub(r"?\1", part) for part in parts[::2]]
    return "".join(parts), max(found)
