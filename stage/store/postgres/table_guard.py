"""Keeps an author's SQL from the tables of the stage on PostgreSQL, by its text and by its effect.

The tables stand in a schema of their own, `stage`. A text that would change something there, or its
definition, does not reach the server. A write there behind a view, a function or another name is
refused by a trigger of each table (0014_author_guard.expand.sql). This guards against a slip, and
not against an author who turns it off.
"""

from __future__ import annotations

import re
from typing import Final

from stage.ports.stage_tables import STAGE_TABLES, refusal
from stage.store.postgres.statements import OURS

_NOT_READ: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/|\b[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'", re.DOTALL
)
"""Comments and literals. A body between dollars is read: it is the code of a function."""
_OPTIONS: Final = r"(?:\s+IF(?:\s+NOT)?\s+EXISTS)?(?:\s+ONLY)?\s*"
_CHANGES: Final = (
    r"\b(?:INTO|UPDATE|DELETE\s+FROM|TRUNCATE|LOCK|COPY"
    r"|(?:CREATE|UNLOGGED|ALTER|DROP|TRUNCATE|LOCK)\s+(?:TABLE|VIEW|INDEX|SEQUENCE))" + _OPTIONS
)
_OF_THE_SCHEMA: Final = r'(?<!\w)"?stage"?\s*\.\s*"?(?P<table>\w+)\b(?!"?\s*\.)'
_CHANGED: Final = re.compile(_CHANGES + _OF_THE_SCHEMA, re.IGNORECASE)
_REFERRED: Final = re.compile(r"\b(?:REFERENCES|ON)" + _OPTIONS + _OF_THE_SCHEMA, re.IGNORECASE)
"""A foreign key, a trigger or an index. A table in the condition of a join has its column behind
it: `ON stage.saga.id = ...`."""
_UNQUALIFIED: Final = re.compile(
    _CHANGES + rf'(?<!\w)"?(?P<table>{"|".join(sorted(STAGE_TABLES))})\b(?!"?\s*\.)', re.IGNORECASE
)
"""To a role that is named `stage` these are ours: a schema of its name comes first in its path."""
_LEAVES_THE_PATH: Final = re.compile(r"\bset_config\s*\(\s*'search_path'", re.IGNORECASE)


def refused_table(sql: str) -> str:
    """Why a statement, or a script, may not be run, with the fix; empty where it may."""
    text = _NOT_READ.sub(" ", sql)
    if found := _CHANGED.search(text) or _REFERRED.search(text):
        return refusal(f"stage.{found['table'].lower()}")
    found = _UNQUALIFIED.search(text)
    return refusal(found["table"].lower()) if found else ""


def refused_write(error: BaseException) -> str:
    """Why the server refused a statement that writes to a table of the stage; empty otherwise."""
    if getattr(error, "detail", None) != "stage.refuse_author":
        return ""
    return str(error).partition("\n")[0]


def refused_setting(sql: str) -> str:
    """Why a statement may not be run that would change what names mean; empty where it may."""
    if sql.startswith(OURS):
        return f"{OURS} marks the statements of the stage: leave it out"
    if _LEAVES_THE_PATH.search(sql):
        return (
            "search_path belongs to the session, which other sagas share: write the schema before"
            " the name of a table, such as app.payment"
        )
    return ""
