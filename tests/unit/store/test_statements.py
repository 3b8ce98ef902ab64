"""SQL by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import stage
from stage.store.postgres.scrub import TABLES
from stage.store.sqlite.statements import statement
from stage.store.statements import load, parse

ROOT = Path(stage.__path__[0])


def test_statements_are_found_by_name() -> None:
    """A statement comes without its comments and its semicolon."""
    text = "-- About.\n\n-- name: one\n-- Says one.\nSELECT 1;\n\n-- name: two\nSELECT\n  2;\n"
    assert parse(text) == {"one": "SELECT 1", "two": "SELECT\n  2"}


def test_a_name_stands_for_one_statement() -> None:
    """The same name twice is a mistake."""
    with pytest.raises(ValueError, match="twice"):
        parse("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_every_statement_is_run_somewhere(store: str) -> None:
    """By its name in the code; those that copy a table get theirs from the name of the table."""
    code = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.rglob("*.py"))
    named = set(re.findall(r"\w+", code)) | {f"copy_{table}_anew" for table in TABLES}

    assert set() == load(f"stage.store.{store}").keys() - named


def test_every_file_is_loaded() -> None:
    """Statements of different files stand side by side; an unknown name is a KeyError."""
    sqlite, postgres = load("stage.store.sqlite"), load("stage.store.postgres")
    assert {"insert_saga", "page_all", "begin_batch", "record_migration"} <= sqlite.keys()
    assert {"write_batch", "page_sagas", "renew", "record_migration"} <= postgres.keys()
    with pytest.raises(KeyError):
        statement("no_such")
