"""The plans of PostgreSQL for what runs again and again, over a database full of ended sagas.

The cost of a claim, of a list or of a metric must not grow with the number of ended sagas.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from stage.core.steps import VERSION_MAX
from stage.store.postgres.statements import statement

FILL = """
INSERT INTO stage.saga (
    id, state, epoch, length, accepted_at, updated_at, fingerprint, parked, due_at, deadline,
    envelope, traceparent, tracestate, answer_status, answer_body, closed_at, parked_cause, version,
    owner
)
SELECT
    'fill-' || lpad(n::text, 12, '0'),
    CASE WHEN n % 10000 = 1 THEN 'active' WHEN n % 50 = 2 THEN 'compensated' ELSE 'completed' END,
    1, 9, n, n, repeat('f', 64), CASE WHEN n % 10000 = 3 THEN 'in doubt' ELSE '' END,
    CASE WHEN n % 10000 = 1 THEN n END, NULL,
    CASE WHEN n % 20 = 0 THEN convert_to(repeat('e', 300), 'UTF8') ELSE '' END,
    repeat('t', 55), '', 200, convert_to(repeat('a', 150), 'UTF8'),
    CASE WHEN n % 20 = 0 OR n % 10000 IN (1, 3) THEN NULL ELSE n END,
    CASE WHEN n % 10000 = 3 THEN 'in_doubt' ELSE '' END, 0,
    CASE WHEN n % 20000 = 1 THEN 1 END
FROM generate_series($1::bigint, $2::bigint) AS n
"""
"""One of ten thousand needs a run, half of these have an owner; one of twenty keeps undo data."""

JOURNAL = """
INSERT INTO stage.journal (saga_id, number, epoch, at, name, event)
SELECT id, number, 1, accepted_at, 'accepted', convert_to(repeat('j', 80), 'UTF8')
FROM stage.saga, generate_series(1, 9) AS number
WHERE id LIKE 'fill-%' AND closed_at IS NULL
"""
SAGAS_PER_STATEMENT = 100_000

ONE = "fill-000000000020"
INDEXED: dict[str, tuple[object, ...]] = {
    "get_saga": (ONE,),
    "take_saga": (ONE,),
    "held_saga": (ONE,),
    "get_journal": (ONE,),
    "lengths": (1, [ONE]),
    "claim_due": (2, 100, VERSION_MAX, 1e12, 2e12),
    "claim_dead": (2, 100, VERSION_MAX),
    "own_due": (1, 100, VERSION_MAX, 1e12, 2e12),
    "own_unfinished": (1, 100, VERSION_MAX),
    "due_sagas": (1e12, 100, VERSION_MAX, 2e12),
    "close_ended": (1e3, 1e12, 100, []),
    "drop_answers": (1e3, 100, []),
    "drop_sagas": (1e12, 100, []),
    "drop_saga": (ONE,),
    "forget_dead": (),
    "recall_forgotten": (),
    "count_sagas": (),
    "count_parked": (),
    "backlog": (1e12, VERSION_MAX),
    "waiting_without_peer": (),
    "words_of_approvals": (f'[["{ONE}", 0]]',),
    "page_sagas": ("fill-", 100, None, None, None),
    "page_since": ("fill-", 100, 1e12, None),
    "page_states": ("fill-", 100, None, None, None, ["active", "compensating"]),
    "page_waiting": ("", 100, None, True, "in_doubt", None, None, None, None),
    "page_term": ("", 100, "order", ["o-1"]),
    "group_waiting": (),
    "page_acts": (2**62, 100),
    "page_acts_of": (2**62, 100, ONE),
    "drop_terms": (ONE,),
    "page_changed": (1e3, "", 100),
    "release": (1, [ONE], [9]),
}
"""Statements that must find what they need by an index, with parameters. None is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a statement was run: the tables that were read whole, its indexes, and how long."""

    name: str
    scanned: tuple[str, ...]
    indexes: tuple[str, ...]
    milliseconds: float


async def fill(connection: Any, sagas: int) -> float:
    """Add so many sagas to an empty database; the seconds it took. Their statistics are fresh."""
    began = time.monotonic()
    for first in range(1, sagas + 1, SAGAS_PER_STATEMENT):
        await connection.execute(FILL, first, min(first + SAGAS_PER_STATEMENT - 1, sagas))
    await connection.execute(JOURNAL)
    await connection.execute(
        "INSERT INTO stage.replica (name, lease_until, dead) VALUES ('gone:1', now(), true)"
    )
    await connection.execute("VACUUM ANALYZE stage.saga, stage.journal, stage.replica")
    return time.monotonic() - began


async def plans(url: str) -> list[Plan]:
    """How the server runs each statement of `INDEXED`; all of it is undone."""
    connection = await asyncpg.connect(url)
    try:
        return [await _plan(connection, name) for name in INDEXED]
    finally:
        await connection.close()


async def _plan(connection: Any, name: str) -> Plan:
    running = connection.transaction()
    await running.start()
    try:
        asked = f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement(name)}"
        (found,) = json.loads(await connection.fetchval(asked, *INDEXED[name]))
    finally:
        await running.rollback()
    nodes = list(_nodes(found["Plan"]))
    return Plan(
        name=name,
        scanned=tuple(
            node["Relation Name"]
            for node in nodes
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] in ("saga", "journal")
        ),
        indexes=tuple(sorted({node["Index Name"] for node in nodes if "Index Name" in node})),
        milliseconds=found["Execution Time"],
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for each in node.get("Plans", ()):
        yield from _nodes(each)
