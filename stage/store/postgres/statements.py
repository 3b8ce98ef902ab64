"""Our SQL for PostgreSQL by name, from the files in `sql/`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from stage.store.statements import load

OURS: Final = "/* stage */"
"""Begins each statement of ours. Where the writer runs an author's SQL too, the tables of the stage
take no write without it (0014_author_guard.expand.sql)."""
_UNMARKED: Final = frozenset({"commit_batch"})
"""A trigger of an author that is deferred runs within COMMIT."""


def _marked(statements: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(
        {name: sql if name in _UNMARKED else f"{OURS} {sql}" for name, sql in statements.items()}
    )


_STATEMENTS: Final = _marked(load("stage.store.postgres"))


def statement(name: str) -> str:
    """One statement. Raises KeyError for a name that is in no file."""
    return _STATEMENTS[name]
