"""Notes on an error of the database: the author's statement, and how to mend it.

The error keeps its type, so that the function can catch it. Its text is not shown, for it may
quote a value (rule 38); of the statement everything is shown but the literals in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from stage.core.raised import Note
from stage.ports.stage_tables import is_stage_table

STATEMENT_CHARS_MAX: Final = 160
_LITERAL: Final = re.compile(r"'(?:[^']|'')*'|(?<![\w$?])\d+(?:\.\d+)?\b")
_SPACE: Final = re.compile(r"\s+")
_NO_TABLE: Final = re.compile(r'no such table: (\S+)|relation "([^"]+)" does not exist')
_NO_COLUMN: Final = re.compile(r"no such column|has no column|column .* does not exist")
_OTHER_PLACE: Final = re.compile(r'near "%"')
_TOO_FEW: Final = re.compile(r"number of bindings|value for binding|server expects \d+ argument")
_GROUPS: Final = (tuple, list, set, dict)


def explain(error: Exception, sql: str, parameters: Sequence[object]) -> None:
    """Write the statement, and the fix where one is known, on the error of a database."""
    error.add_note(Note(f"in {shown_statement(sql)}"))
    if fix := _fix(str(error), parameters):
        error.add_note(Note(fix))


def shown_statement(sql: str) -> str:
    """A statement without its literals, which may quote a value."""
    return _LITERAL.sub("'...'", _SPACE.sub(" ", sql).strip())[:STATEMENT_CHARS_MAX]


def _fix(text: str, parameters: Sequence[object]) -> str:
    if (missing := _NO_TABLE.search(text)) is not None:
        table = missing[1] or missing[2]
        if is_stage_table(table.removeprefix("main.")):
            return (
                f"{table} is a table of the stage, which a database in memory does not have, and"
                " which may be read alone: use a table of your own migrations"
            )
        return (
            f"there is no table {table}: give the folder of its SQL file to"
            ' Stage(..., migrations="migrations"), and run `stage db upgrade`'
        )
    if _NO_COLUMN.search(text):
        return "there is no such column: is a migration missing? `stage db status` lists them"
    if _OTHER_PLACE.search(text):
        return "write $1, $2 where the values go: %s and %(name)s are those of other drivers"
    if _TOO_FEW.search(text):
        return "write a place for each value, $1, $2 and so on, and give one value for each place"
    if any(isinstance(value, _GROUPS) for value in parameters):
        return "a parameter is a tuple, list, set or dict: give each value by itself, (sql, a, b)"
    return ""
