"""The books after a trial: from the stages' databases and from the world's own count.

A violation names its saga; `story` prints all that is known about it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.acceptance.kills.load import Kind, Placed

STAGES = ("order", "payment", "shipping")
EFFECTS = {"order": ("place",), "payment": ("reserve", "record"), "shipping": ("dispatch",)}
AT_REST = "SELECT count(*) FROM saga WHERE state IN ('active', 'compensating')"
DUE = "SELECT count(*) FROM saga WHERE due_at IS NOT NULL"
RERUN = """
SELECT saga_id, name FROM (
    SELECT saga_id, name, max(CASE WHEN name IN ('compensated', 'tombstoned') THEN number END)
        OVER (PARTITION BY saga_id) AS over, number FROM journal
) WHERE number > over AND name IN ('step_started', 'step_succeeded', 'completed')
"""
STALE = """
SELECT DISTINCT saga_id FROM (
    SELECT saga_id, epoch, lag(epoch) OVER (PARTITION BY saga_id ORDER BY number) AS before
    FROM journal
) WHERE epoch < before
"""


@dataclass(slots=True)
class Seen:
    """One saga at one stage."""

    state: str
    parked: str
    trace: str
    over_at: float
    done: Counter[str] = field(default_factory=Counter)
    undone: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Violation:
    """A saga that broke a promise, and which: lost, doubled, standing, stuck, or another."""

    saga_id: str
    promise: str
    what: str


@dataclass(slots=True)
class Books:
    """The result of a trial, as all books tell it."""

    outcomes: dict[str, int]
    world: dict[str, int]
    violations: list[Violation]

    def broken(self, promise: str) -> int:
        """How many sagas broke it."""
        return len({each.saga_id for each in self.violations if each.promise == promise})


def resting(folder: Path, stages: Sequence[str] = STAGES) -> bool:
    """True when none of these stages has anything left to do."""
    for stage in stages:
        with closing(sqlite3.connect(f"file:{folder / stage}.db?mode=ro", uri=True)) as books:
            for question in (DUE, AT_REST):
                if books.execute(question).fetchone()[0]:
                    return False
    return True


def check(folder: Path, sagas: Sequence[Placed], *, apart_seconds: float = 0.0) -> Books:
    """Read all books and hold every saga to every promise.

    `apart_seconds` is how far the clocks of two stages may differ.
    """
    stages = {stage: _read(folder / f"{stage}.db") for stage in STAGES}
    world, totals = _world(folder / "world.db")
    books = Books({}, totals, [])
    outcomes: Counter[str] = Counter()
    for placed in sagas:
        seen = {stage: stages[stage].pop(placed.saga_id, None) for stage in STAGES}
        charge = world.pop(placed.saga_id, _NOTHING)
        outcomes[_outcome(seen)] += 1
        for promise, what in _broken(placed, seen, charge, apart_seconds):
            books.violations.append(Violation(placed.saga_id, promise, what))
    for stage, left in stages.items():
        books.violations += [Violation(each, "agreed", f"only {stage} knows it") for each in left]
    books.violations += [Violation(each, "agreed", "only the world knows it") for each in world]
    for stage in STAGES:
        with closing(sqlite3.connect(folder / f"{stage}.db")) as database:
            for saga_id, name in database.execute(RERUN):
                what = f"{stage}: {name} after it was compensated"
                books.violations.append(Violation(saga_id, "final", what))
            for (saga_id,) in database.execute(STALE):
                books.violations.append(Violation(saga_id, "epoch", f"{stage}: epoch went back"))
    books.outcomes = dict(sorted(outcomes.items()))
    return books


@dataclass(slots=True, frozen=True)
class Charge:
    """One saga in the books of the world."""

    keys: int = 0
    made: int = 0
    refunded: int = 0
    mismatched: int = 0


_NOTHING = Charge()


def _outcome(seen: dict[str, Seen | None]) -> str:
    return " ".join("-" if each is None else each.state for each in seen.values())


def _broken(
    placed: Placed, seen: dict[str, Seen | None], charge: Charge, apart_seconds: float
) -> Iterator[tuple[str, str]]:
    for surprise in placed.surprises:
        yield "answered", surprise
    if placed.accepted and seen["order"] is None:
        yield "lost", "answered 2xx and not in the database of order"
    if not placed.status:
        yield "stuck", "its client never got a final answer"
    for stage, one in seen.items():
        yield from _broken_at(stage, one)
    completed = [one is not None and one.state == "completed" for one in seen.values()]
    standing = charge.made - charge.refunded
    if all(completed):
        if standing != 1:
            yield "standing", f"completed with {standing} charges standing"
    elif any(completed):
        yield "agreed", f"the stages do not agree: {_outcome(seen)}"
    elif standing:
        yield "standing", f"compensated with {standing} charges standing"
    if charge.made > 1 or charge.keys > 1:
        yield "doubled", f"{charge.made} charges under {charge.keys} keys"
    if charge.mismatched:
        yield "same bytes", f"{charge.mismatched} repeats under a key differed from the first"
    if placed.status == 200 and placed.kind is Kind.PLAIN and not all(completed):
        yield "lost", "answered 200 and then undone, which nobody asked for"
    if placed.status in (409, 410) and any(completed):
        yield "answered", f"answered {placed.status} and completed"
    if placed.undone and any(completed):
        yield "standing", "undone by order, and completed"
    if len({one.trace for one in seen.values() if one is not None and one.trace}) > 1:
        yield "trace", "the stages hold different traces"
    yield from _order_of_undoing(seen, apart_seconds)


def _broken_at(stage: str, one: Seen | None) -> Iterator[tuple[str, str]]:
    if one is None:
        return
    if one.parked or one.state in ("active", "compensating"):
        yield "stuck", f"{stage}: {one.state} {one.parked}".strip()
    if one.state == "failed_to_compensate":
        yield "standing", f"{stage}: failed to compensate"
    for step in EFFECTS[stage]:
        done, undone = one.done[step], one.undone[step]
        if done > 1 or undone > 1:
            yield "doubled", f"{stage}: {step} done {done} times, undone {undone} times"
        elif done - undone != (one.state == "completed"):
            yield "standing", f"{stage}: {step} done {done}, undone {undone}, {one.state}"


def _order_of_undoing(
    seen: dict[str, Seen | None], apart_seconds: float
) -> Iterator[tuple[str, str]]:
    """I7: who is downstream has compensated before we have. A tombstone has no such order."""
    over = [(stage, one) for stage, one in seen.items() if one and one.state == "compensated"]
    for (upper, above), (lower, below) in pairwise(over):
        if below.over_at - apart_seconds > above.over_at > 0.0:
            late = (below.over_at - above.over_at) * 1000
            yield "order", f"{upper} was compensated {late:.1f} ms before {lower}"


def _read(database: Path) -> dict[str, Seen]:
    """All sagas of one stage, with the effects in its ledger."""
    found: dict[str, Seen] = {}
    with closing(sqlite3.connect(database)) as books:
        for saga_id, state, parked, traceparent in books.execute(
            # A tombstone has the trace of who buried it, which may be an operator's.
            "SELECT id, state, parked, iif(fingerprint = '', '', traceparent) FROM saga"
        ):
            found[saga_id] = Seen(state, parked, traceparent[3:35], 0.0)
        for saga_id, at in books.execute(
            "SELECT saga_id, min(at) FROM journal WHERE name = 'compensated' GROUP BY saga_id"
        ):
            found[saga_id].over_at = at
        for saga_id, step, direction, count in books.execute(
            "SELECT saga_id, step, direction, count(*) FROM ledger GROUP BY 1, 2, 3"
        ):
            seen = found.setdefault(saga_id, Seen("nowhere", "", "", 0.0))
            (seen.done if direction > 0 else seen.undone)[step] = count
    return found


def _world(database: Path) -> tuple[dict[str, Charge], dict[str, int]]:
    with closing(sqlite3.connect(database)) as books:
        found = {
            row[0]: Charge(*row[1:])
            for row in books.execute(
                "SELECT saga_id, count(*), sum(made), sum(refunded), sum(mismatched)"
                " FROM charge GROUP BY saga_id"
            )
        }
        names = ("keys", "made", "refunded", "charge_requests", "refund_requests", "probes")
        sums = books.execute(
            "SELECT count(*), sum(made), sum(refunded), sum(asked), sum(undone), sum(probed)"
            " FROM charge"
        ).fetchone()
    return found, {name: value or 0 for name, value in zip(names, sums, strict=True)}


def story(folder: Path, saga_id: str) -> str:
    """All that is known about one saga."""
    lines = [f"saga {saga_id}"]
    for stage in STAGES:
        with closing(sqlite3.connect(folder / f"{stage}.db")) as books:
            row = books.execute(
                "SELECT state, parked, epoch, due_at FROM saga WHERE id = ?", (saga_id,)
            ).fetchone()
            lines.append(f"  {stage}: {row}")
            for at, number, epoch, event in books.execute(
                "SELECT at, number, epoch, event FROM journal WHERE saga_id = ? ORDER BY number",
                (saga_id,),
            ):
                lines.append(f"    {at:.3f} {number:3d} epoch {epoch} {_brief(event)}")
            ledger = books.execute(
                "SELECT step, direction FROM ledger WHERE saga_id = ?", (saga_id,)
            ).fetchall()
            lines.append(f"    ledger {ledger}")
    with closing(sqlite3.connect(folder / "world.db")) as books:
        books.row_factory = sqlite3.Row
        found = books.execute("SELECT * FROM charge WHERE saga_id = ?", (saga_id,))
        lines += [f"  world: {dict(row)}" for row in found]
    with (folder / "faults.jsonl").open() as record:
        lines += [
            f"  network: {fault['at']:.3f} {fault['link']} {fault['what']} {fault['request']}"
            for fault in map(json.loads, record)
            if fault["saga_id"] == saga_id
        ]
    return "\n".join(lines)


def _brief(event: bytes) -> str:
    members: dict[str, Any] = json.loads(event)
    name = members.pop("event")
    kept = {key: value for key, value in members.items() if key not in ("at", "request", "span")}
    return f"{name} {kept}"
