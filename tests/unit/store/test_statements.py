"""SQL by name."""

from __future__ import annotations

import pytest

from stage.store.sqlite.statements import statement
from stage.store.statements import load, parse


def test_statements_are_found_by_name() -> None:
    """A statement comes without its comments and its semicolon."""
    text = "-- About.\n\n-- name: one\n-- Says one.\nSELECT 1;\n\n-- name: two\nSELECT\n  2;\n"
    assert parse(text) == {"one": "SELECT 1", "two": "SELECT\n  2"}


def test_a_name_stands_for_one_statement() -> None:
    """The same name twice is a mistake."""
    with pytest.raises(ValueError, match="twice"):
        parse("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


def test_every_file_is_loaded() -> None:
    """Statements of different files stand side by side; an unknown name is a KeyError."""
    sqlite, postgres = load("stage.store.sqlite"), load("stage.store.postgres")
    assert {"insert_saga", "page_all", "begin_batch", "record_migration"} <= sqlite.keys()
    assert {"write_batch", "page_sagas", "renew", "record_migration"} <= postgres.keys()
    with pytest.raises(KeyError):
        statement("no_such")
