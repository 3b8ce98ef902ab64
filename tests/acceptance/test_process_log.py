"""The whole life of a process in its log: JSON from the first line to the last."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytestmark = pytest.mark.execs

STAGE = '''
from stage import Saga, Stage, Tx

payment = Stage("payment", accepts=dict)


@payment.transaction(compensation=None, reason="nothing is kept")
async def note(tx: Tx, saga: Saga[dict]) -> None:
    """Nothing."""
'''
LIVES_SECONDS_MAX = 120.0


def test_every_line_of_a_process_is_json_from_start_to_end(tmp_path: Path) -> None:
    """A first start, which makes its database, and a second one; each is ended by SIGTERM."""
    (tmp_path / "noted.py").write_text(STAGE)
    first, second = lived(tmp_path), lived(tmp_path)
    assert ["database_made", "started", "draining", "stopped"] == of_the_process(first)
    assert ["database_opened", "started", "draining", "stopped"] == of_the_process(second)
    (begin,) = [line for line in first if line["event"] == "started"]
    assert ("payment", "environment STAGE_DATABASE") == (
        begin["stage"],
        begin["settings"]["database"],
    )


def test_a_start_names_the_migrations_that_it_applied(tmp_path: Path) -> None:
    """Once, and not those of a database that it made itself."""
    (tmp_path / "noted.py").write_text(
        STAGE.replace("accepts=dict", 'accepts=dict, migrations="notes"')
    )
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "0001_note.sql").write_text("CREATE TABLE note (id TEXT);\n")
    first = lived(tmp_path)
    (notes / "0002_more.expand.sql").write_text("ALTER TABLE note ADD COLUMN more TEXT;\n")
    second, third = lived(tmp_path), lived(tmp_path)
    applied = [
        [line["detail"] for line in lines if line["event"] == "migrations_applied"]
        for lines in (first, second, third)
    ]
    assert [[], 1, []] == [applied[0], len(applied[1]), applied[2]]
    assert applied[1][0].startswith("notes/0002_more") and "0001" not in applied[1][0]


def lived(folder: Path) -> list[dict[str, Any]]:
    """Serve until it listens, end it, and the lines that it wrote to stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stage", "serve", "noted:payment", "--port", "0", "--auth", "none"],
        cwd=folder,
        env={
            **{name: text for name, text in os.environ.items() if not name.startswith("STAGE_")},
            "STAGE_DATABASE": "sqlite:///noted.db",
            "STAGE_LOG_FORMAT": "json",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        assert process.stdout.readline().startswith(b"listening on ")
        lines: list[dict[str, Any]] = []
        while not {"ready", "started"} <= {line["event"] for line in lines}:
            lines.append(msgspec.json.decode(process.stderr.readline()))
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=LIVES_SECONDS_MAX)
    finally:
        process.kill()
        process.wait()
    assert 0 == process.returncode
    lines += [msgspec.json.decode(line) for line in rest.splitlines()]
    assert all({"timestamp", "level", "event"} <= line.keys() for line in lines)
    return lines


def of_the_process(lines: list[dict[str, Any]]) -> list[str]:
    """The lines in a certain order: when a stage becomes ready is looked at beside them."""
    wanted = {"database_made", "database_opened", "started", "draining", "stopped"}
    return [line["event"] for line in lines if line["event"] in wanted]
