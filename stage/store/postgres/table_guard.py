"""Keeps an author's SQL from the tables of the stage on PostgreSQL, by the text of a statement.

The tables stand in a schema of their own, `stage`. SQL that a function of the database makes is not
seen: this guards against a slip.
"""

from __future__ import annotations

import re
from typing import Final

from stage.ports.stage_tables import STAGE_TABLES, refusal

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


def refused_setting(sql: str) -> str:
    """Why a statement may not be run that would change what names mean; empty where it may."""
    if _LEAVES_THE_PATH.search(sql):
        return (
            "search_path belongs to the session, which other sagas share: write the schema before"
            " the name of a table, such as app.payment"
        )
    return ""
