"""The author's side of a unit on PostgreSQL: how a statement of theirs is run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from stage.core.errors import StageError
from stage.ports.store import Row, Tx
from stage.store import author_sql
from stage.store.errors import StatementRefused
from stage.store.hints import explain, shown_statement
from stage.store.postgres.part import Part
from stage.store.postgres.table_guard import refused_setting, refused_table, refused_write

_REFUSED: Final = author_sql.ENDING | {
    "START",
    "ABORT",
    "PREPARE",
    "SET",
    "RESET",
    "DISCARD",
    "LISTEN",
    "UNLISTEN",
    "NOTIFY",
    "ATTACH",
    "DETACH",
    "PRAGMA",
}
"""The session is shared with other units and, behind a pooler, with other processes."""
_COUNT: Final = re.compile(r"(\d+)$")
"""At the end of the server's word, such as INSERT 0 3."""


def author_tx(part: Part) -> Tx:
    """The author's view of a unit. The first statement marks the place it can be undone to."""

    async def run(sql: str, parameters: tuple[Any, ...]) -> tuple[list[Row], str]:
        try:
            return await part.author(_checked(sql), parameters)
        except StageError:
            raise
        except Exception as error:
            if refused := refused_write(error):
                raise StatementRefused(f"{refused}: in {shown_statement(sql)}") from None
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

    async def fetch(sql: str, parameters: tuple[Any, ...], _most: int) -> list[Row]:
        found, _ = await run(sql, parameters)
        return found

    return author_sql.author_tx(execute, executemany, fetch)


@lru_cache(maxsize=1024)
def _checked(sql: str) -> str:
    """The statement itself, checked once: an author runs the same few again and again."""
    author_sql.refuse_first_word(sql, _REFUSED)
    if refused := refused_table(sql) or refused_setting(sql):
        raise StatementRefused(f"{refused}: in {shown_statement(sql)}")
    return sql
