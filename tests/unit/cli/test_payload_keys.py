"""Keys of the contents at rest: written, rotated in two steps, and taken up by a real process."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from stage.bootstrap.encryption import sealed_codec
from tests.unit.cli.programs import Done, stage
from tests.unit.cli.test_start import DECLARED

DATABASE = ("--database", "sqlite:///p.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(DECLARED)
    return tmp_path


def payload(folder: Path, *options: str) -> Done:
    return stage("keys", "payload", "payload.keys", *options, cwd=folder)


def reencrypt(folder: Path, *options: str) -> Done:
    return stage("db", "reencrypt", "pay:payment", *DATABASE, *options, cwd=folder)


def test_a_key_is_added_before_it_encrypts(folder: Path) -> None:
    """The file is private, a second one is refused, and each step changes one thing."""
    assert 0 == payload(folder).status
    path = folder / "payload.keys"
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    (first,) = path.read_text().split()
    assert "--add" in payload(folder).err
    assert 0 == payload(folder, "--add").status
    assert first == path.read_text().split()[0]
    used = payload(folder, "--use")
    assert 0 == used.status and first == keys_in(path)[1]
    assert not any(key in used.out for key in keys_in(path))


def test_a_key_is_used_once_however_often_that_is_pressed(folder: Path) -> None:
    """Pressed twice, the old key encrypted again, and was taken out of the file at the end."""
    payload(folder)
    path = folder / "payload.keys"
    for rotation in (1, 2):
        payload(folder, "--add")
        *old, added = keys_in(path)
        assert rotation == len(old)
        outputs = [payload(folder, "--use") for _ in range(3)]
        assert [added, *old] == keys_in(path)
        assert [False, True, True] == ["encrypts already" in done.out for done in outputs]
        assert [0] * 3 == [done.status for done in outputs]
        assert sealed_codec(str(path)).admit(()) in outputs[-1].out


def keys_in(path: Path) -> list[str]:
    """The keys of a file, the one that encrypts first."""
    return [line for line in path.read_text().split() if not line.startswith("#")]


def test_a_key_that_no_stage_writes_with_is_refused(folder: Path) -> None:
    """In one line that says what to do; without a file too."""
    assert 0 == stage("db", "init", "pay:payment", *DATABASE, cwd=folder).status
    assert 0 == payload(folder).status
    early = reencrypt(folder, "--payload-key-file", "payload.keys")
    assert 2 == early.status and "start the stage with this payload_key_file first" in early.err
    none = reencrypt(folder)
    assert 2 == none.status and "stage keys payload" in none.err
    missing = reencrypt(folder, "--payload-key-file", "nothing")
    assert 2 == missing.status and "cannot be read" in missing.err


def test_a_key_is_ended_in_the_files_of_all_workers(folder: Path) -> None:
    """The word that nothing is left under it holds for each: the operator then drops the key."""
    init = ("db", "init", "pay:payment", *DATABASE, "--workers", "2")
    assert 0 == stage(*init, cwd=folder).status
    assert 0 == payload(folder).status
    key = sealed_codec(str(folder / "payload.keys")).admit(())
    paths = [folder / name for name in ("p.db", "p.1.db")]
    for path in paths:  # as workers that served with it and before it
        with closing(sqlite3.connect(path)) as connection, connection:
            for each in ("plain", key):
                connection.execute("INSERT OR IGNORE INTO stage_payload_key VALUES (?)", (each,))
    done = reencrypt(folder, "--payload-key-file", "payload.keys")
    assert (0, 1) == (done.status, done.out.count("nothing is left in the clear")), done
    for path in paths:
        with closing(sqlite3.connect(path)) as connection:
            assert [(key,)] == connection.execute("SELECT id FROM stage_payload_key").fetchall()
