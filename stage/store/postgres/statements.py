"""Our SQL for PostgreSQL by name, from the files in `sql/`."""

from __future__ import annotations

from typing import Final

from stage.store.statements import load

_STATEMENTS: Final = load("stage.store.postgres")


def statement(name: str) -> str:
    """One statement. Raises KeyError for a name that is in no file."""
    return _STATEMENTS[name]
