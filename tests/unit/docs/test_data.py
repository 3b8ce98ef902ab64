"""The JSON, TOML and YAML of the pages is read by what reads it, and their SQL is prepared."""

from __future__ import annotations

import ast
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from stage.config import load
from tests.unit.docs.blocks import ROOT, Block, blocks

SQL_WORDS = ("SELECT ", "INSERT ", "UPDATE ", "DELETE ")
MIGRATIONS = ROOT / "stage" / "demo" / "migrations"


def sql_of(block: Block) -> list[str]:
    """The statements that stand in it as texts."""
    texts = (
        node.value for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Constant)
    )
    return [text for text in texts if isinstance(text, str) and text.startswith(SQL_WORDS)]


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_each_line_of_json_is_a_document(block: Block) -> None:
    """A request, or an answer."""
    assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_settings_are_known(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage.toml or a chain.toml that names none that is not there."""
    file = tmp_path / "settings.toml"
    file.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    if "[stages." in block.text:
        from stage.orchestrators.temporal.config import load as load_chain

        assert load_chain(file).stages
    else:
        load({}, {}, file)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_read(block: Block) -> None:
    """A configuration of Prometheus."""
    assert isinstance(yaml.safe_load(block.text), dict)


def test_sql_is_prepared_on_the_tables_of_the_demo() -> None:
    """With the tables and columns that it names."""
    with closing(sqlite3.connect(":memory:")) as database:
        for file in sorted(MIGRATIONS.glob("*.sql")):
            if ".postgres." not in file.name:
                database.executescript(file.read_text(encoding="utf-8"))
        prepared = 0
        for block in blocks("python"):
            for statement in sql_of(block):
                database.execute(f"EXPLAIN {statement}", [None] * statement.count("$"))
                prepared += 1
    assert prepared


def test_the_tables_of_the_stage_are_named_to_the_author() -> None:
    """A table of the author's by one of these names would be refused at start."""
    page = (ROOT / "docs" / "author.md").read_text(encoding="utf-8")
    said = page.partition("The stage's own tables")[2].partition("Leave them alone")[0]
    named = set(re.findall(r"`(\w+)`", said)) - {"stage_"}
    found: set[str] = set()
    for file in (ROOT / "stage" / "store" / "sqlite").rglob("*.sql"):
        made = re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+)", file.read_text("utf-8"))
        found |= set(made)
    assert "stage_identity" in found
    assert named == {name for name in found if not name.startswith("stage_")}
