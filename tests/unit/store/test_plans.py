"""The query plans of SQLite: each statement uses its index, so that old sagas cost nothing.

The cost of a scan or of a request must not grow with the number of ended sagas.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from stage.store.sqlite import dialect
from stage.store.sqlite.statements import statement


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """A database with our tables."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        dialect.upgrade(made, [], now=0.0)
        yield made


@pytest.mark.parametrize(
    "name, index",
    [
        ("get_saga", "sqlite_autoindex_saga_1 (id=?)"),
        ("save_saga", "sqlite_autoindex_saga_1 (id=?)"),
        ("close_saga", "sqlite_autoindex_saga_1 (id=?)"),
        ("get_journal", "PRIMARY KEY (saga_id=?)"),
        ("drop_journal", "PRIMARY KEY (saga_id=?)"),
        ("due_sagas", "saga_due (due_at>? AND due_at<?)"),
        ("longest_due", "saga_due (due_at>? AND due_at<?)"),
        ("count_parked", "COVERING INDEX saga_place"),
        ("waiting_without_peer", "saga_place (parked_cause=?)"),
        ("act_under", "PRIMARY KEY (key=?)"),
        ("drop_old_act_keys", "stage_act_key_at (at<?)"),
        ("instants_since", "PRIMARY KEY (saga_id=? AND number>?)"),
        ("oldest_unfinished", "saga_state (state=?)"),
        ("closable_sagas", "saga_closable (updated_at<?)"),
        ("drop_answers", "sqlite_autoindex_saga_1 (id=?)"),
        ("droppable_sagas", "saga_row_kept (closed_at>? AND closed_at<?)"),
        ("droppable_saga", "sqlite_autoindex_saga_1 (id=?)"),
        ("count_sagas", "COVERING INDEX saga_state"),
        ("page_all", "sqlite_autoindex_saga_1 (id>?)"),
        ("page_waiting", "saga_waits (id>?)"),
        ("group_waiting", "COVERING INDEX saga_place"),
        ("drop_terms", "saga_term_saga (saga_id=?)"),
        ("page_acts", "INTEGER PRIMARY KEY (rowid<?)"),
        ("page_acts_of", "stage_audit_target (target=? AND number<?)"),
        ("page_changed", "saga_changed ((updated_at,id)>(?,?))"),
    ],
)
def test_it_is_found_by_its_index(connection: sqlite3.Connection, name: str, index: str) -> None:
    """And read in the order of that index: sorting would read all of it first."""
    asked = statement(name)
    parameters = [1] * max(map(int, re.findall(r"\?(\d+)", asked)), default=0)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {asked}", parameters)]

    read = [step for step in plan if step.startswith(("SEARCH", "SCAN"))]
    assert read[0].endswith(index), plan
    # Those that are due at the same instant may be sorted among themselves.
    # Those that wait for a person are grouped once they are found.
    grouped = name == "count_parked"
    allowed = "GROUP BY" if grouped else "RIGHT PART"
    assert not [step for step in plan if "TEMP B-TREE" in step and allowed not in step]


def test_those_that_changed_since_are_found_by_their_change(connection: sqlite3.Connection) -> None:
    """In the order of ids a million older ones would be read before the first that fits."""
    asked = f"EXPLAIN QUERY PLAN {statement('page_since')}"
    plan = [row[3] for row in connection.execute(asked, ("", 50, 1.0, 2.0))]
    assert any("COVERING INDEX saga_changed (updated_at>? AND updated_at<?)" in row for row in plan)
    assert not any(row.startswith("SCAN saga") for row in plan), plan


def test_sweeps_that_are_over_cost_neither_a_count_nor_a_sort(
    connection: sqlite3.Connection,
) -> None:
    """Every replica looks each second: only the orders themselves are read, one by one."""
    asked = f"EXPLAIN QUERY PLAN {statement('unfinished_sweeps')}"
    plan = [row[3] for row in connection.execute(asked, (9,))]
    read = [step for step in plan if step.startswith(("SEARCH", "SCAN"))]
    assert ["SCAN asked"] == [step for step in read if step.startswith("SCAN")]
    assert any("stage_audit_target (target=?)" in step for step in read), plan
    assert 4 == sum("stage_sweep_saga_end (sweep=? AND ended=?)" in step for step in read), plan
    assert not [step for step in plan if "TEMP B-TREE" in step], plan
