"""Our SQL for SQLite by name, from the files in `sql/`."""

from __future__ import annotations

from stage.store.statements import load


def statement(name: str) -> str:
    """One statement. Raises KeyError for a name that is in no file."""
    return load("stage.store.sqlite")[name]
