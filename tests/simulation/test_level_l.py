"""The run of level L: what is kept of a run that was stopped, and what a violation shows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from stage.simulation import world
from stage.simulation.books import Books
from stage.simulation.summary import Summary
from tests.simulation.level_l import Chunk, chunk, document, kept, ranges, simulate

pytestmark = pytest.mark.blocking  # the virtual loop never waits for anything real

WANTED = ranges(0, 120)


def done(first: int, seeds: int, *, violations: int = 0) -> Chunk:
    """A chunk that has run."""
    summary = Summary(seeds=seeds, sagas=2 * seeds, violations=violations)
    summary.faults["crash"] = 3
    return Chunk(first=first, seeds=seeds, sagas=2, commit="c1", seconds=1.5, summary=summary)


def test_the_last_chunk_ends_with_the_last_seed() -> None:
    assert [(0, 50), (50, 50), (100, 20)] == WANTED


def test_a_stopped_run_keeps_what_held_and_repeats_the_rest(tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    lines = [msgspec.json.encode(each) for each in (done(50, 50, violations=1), done(0, 50))]
    progress.write_bytes(b"\n".join([*lines, lines[1][:40]]))

    assert [done(0, 50)] == kept(progress, WANTED, sagas=2)
    assert [] == kept(progress, WANTED, sagas=3)
    assert [] == kept(tmp_path / "none.jsonl", WANTED, sagas=2)


def test_a_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    progress = tmp_path / "progress.jsonl"
    progress.write_bytes(b"".join(msgspec.json.encode(done(*place)) + b"\n" for place in WANTED))

    chunks = simulate(WANTED, 2, 1, progress)
    whole = document(chunks, datetime.now(UTC))

    assert ({"c1": 120}, 240, 9) == (whole["commits"], whole["sagas"], whole["faults"]["crash"])


def test_a_violation_is_shown_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def wrong(books: Books, *_: object, **__: object) -> None:
        books.violate("I1", "s7-0", "charged twice")

    monkeypatch.setattr(world, "check", wrong)
    found = chunk(7, 1, 1, "c1")

    assert 1 == found.summary.violations
    shown = capsys.readouterr().out
    assert "seed 7 (" in shown
    assert "I1 s7-0 charged twice" in shown
    assert "VIOLATION" in shown
