"""The files that a stage was started from: a worker that begins later has to find the same ones."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from stage.bootstrap.code_files import CodeFiles
from stage.core.errors import ConfigurationError


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module that is loaded."""
    path = tmp_path / "pay.py"
    path.write_text("x = 1\n")
    loaded = types.ModuleType("pay")
    loaded.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "pay", loaded)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The author's migrations."""
    folder = tmp_path / "sql"
    folder.mkdir()
    (folder / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT);")
    return folder


def refused(files: CodeFiles, path: Path) -> None:
    """A worker is not started, and the file is named."""
    with pytest.raises(ConfigurationError) as caught:
        files.check()
    assert str(caught.value).startswith(str(path)) and "restart the stage" in str(caught.value)


def test_a_module_that_was_changed_is_named(module: Path, folder: Path) -> None:
    """Also one that is gone; and the same file again is the same code."""
    files = CodeFiles([folder])
    files.check()
    kept = module.rename(module.with_name("kept"))
    refused(files, module)
    module.write_text("x = 1\n")
    refused(files, module)
    kept.rename(module)
    files.check()


def test_a_migration_of_the_next_release_is_named(module: Path, folder: Path) -> None:
    """But for an expansion that was added: this release runs on its schema too."""
    files = CodeFiles([folder])
    expansion = folder / "0002_iban.expand.sqlite.sql"
    expansion.write_text("ALTER TABLE payment ADD COLUMN iban TEXT;")
    files.check()
    first = folder / "0001_payment.sql"
    first.write_text("CREATE TABLE payment (id INT);")
    refused(files, first)
    files = CodeFiles([folder])
    contraction = folder / "0003_less.contract.sql"
    contraction.write_text("ALTER TABLE payment DROP COLUMN iban;")
    refused(files, contraction)
    contraction.unlink()
    expansion.write_text("ALTER TABLE payment ADD COLUMN bic TEXT;")
    refused(files, expansion)


def test_a_folder_that_is_being_replaced_is_no_crash(module: Path, folder: Path) -> None:
    """Its files are gone for that moment, and nothing is started."""
    files = CodeFiles([folder])
    folder.rename(folder.with_name("former"))
    refused(files, folder / "0001_payment.sql")
