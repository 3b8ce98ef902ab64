"""Copies of a saga: as many as asked for, older, whole, and under names of their own."""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.growth.filling import fill, uuid7
from stage.demo import payment
from stage.store.sqlite import dialect

TEMPLATE = "0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10"
MIGRATIONS = Path(payment.__file__).with_name("migrations")


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A file with one saga: its row, two entries that hold its id, and the author's row."""
    file = tmp_path / "stage.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        dialect.upgrade(connection, [MIGRATIONS], now=0.0)
        connection.execute(
            "INSERT INTO saga (id, state, epoch, length, accepted_at, updated_at, fingerprint,"
            " parked, parked_cause, traceparent, tracestate, answer_body, envelope)"
            " VALUES (?, 'completed', 0, 2, ?, ?, '', '', '', '', '', ?, ?)",
            (TEMPLATE, time.time(), time.time(), f"of {TEMPLATE}".encode(), b"{}"),
        )
        for number in (1, 2):
            connection.execute(
                "INSERT INTO journal VALUES (?, ?, 0, 0.0, 'accepted', ?)",
                (TEMPLATE, number, f"key {TEMPLATE}:{number}".encode()),
            )
        connection.execute(
            "INSERT INTO payment VALUES (?, 'o-1', 100, 'KRW', 'charged', 'c-1')", (TEMPLATE,)
        )
    return file


def rows(file: Path, question: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(question).fetchall()


def test_every_copy_has_the_rows_of_the_template(database: Path) -> None:
    """So many sagas more, each with its journal and the author's row."""
    fill(database, TEMPLATE, 30, over_seconds=600.0)
    counts = [rows(database, f"SELECT count(*) FROM {table}")
              for table in ("saga", "journal", "payment")]  # fmt: skip
    assert [[(31,)], [(62,)], [(31,)]] == counts
    assert [] == rows(database, "SELECT id FROM saga WHERE id NOT IN (SELECT saga_id FROM payment)")


def test_the_id_of_the_template_stands_in_no_copy(database: Path) -> None:
    """Not in keys and bodies either: a copy must not answer for another saga."""
    fill(database, TEMPLATE, 5, over_seconds=600.0)
    for saga_id, number, event in rows(database, "SELECT saga_id, number, event FROM journal"):
        assert f"key {saga_id}:{number}".encode() == event
    for saga_id, answer in rows(database, "SELECT id, answer_body FROM saga"):
        assert f"of {saga_id}".encode() == answer


def test_copies_are_of_the_time_before(database: Path) -> None:
    """Spread over the seconds asked for, in the order of their ids, none of them due."""
    now = time.time()
    fill(database, TEMPLATE, 10, over_seconds=100.0)
    copies = rows(
        database,
        f"SELECT accepted_at, updated_at, due_at FROM saga WHERE id <> '{TEMPLATE}' ORDER BY id",
    )
    times = [float(str(accepted)) for accepted, _, _ in copies]
    assert sorted(times) == times
    assert now - 101 < times[0] < now - 99 and times[-1] < time.time()
    assert all(accepted == updated and due is None for accepted, updated, due in copies)


def test_a_saga_that_is_not_there_cannot_be_copied(database: Path) -> None:
    """It is said which table has no row of it."""
    with pytest.raises(ValueError, match="has no row in saga"):
        fill(database, TEMPLATE.replace("0", "1"), 1, over_seconds=1.0)


def test_an_id_of_another_length_cannot_be_copied(database: Path) -> None:
    """Rows of another size would be another measurement."""
    with pytest.raises(ValueError, match="36 characters"):
        fill(database, "short", 1, over_seconds=1.0)


def test_ids_are_of_version_7_and_in_the_order_of_time() -> None:
    """RFC 9562, section 5.7."""
    dice = random.Random(1)
    made = [uuid7(milliseconds, dice) for milliseconds in (1, 2, 1_700_000_000_000)]
    assert sorted(made) == made
    assert [(7, uuid.RFC_4122)] * 3 == [
        (uuid.UUID(each).version, uuid.UUID(each).variant) for each in made
    ]
    assert 1_700_000_000_000 == uuid.UUID(made[-1]).int >> 80
