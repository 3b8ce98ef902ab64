"""A saga whose journal holds what cannot follow: parked, shown, and ended by a person."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from tests.scenario.chain import running_chain
from tests.scenario.test_operator import do
from tests.scenario.test_sweeps import acts_on


def damage(database: Path) -> None:
    """Let an attempt end for a step that was never started."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for number, event in connection.execute(
            "SELECT number, event FROM journal WHERE name = 'step_in_doubt'"
        ).fetchall():
            changed = {**msgspec.json.decode(event), "step": "record"}
            connection.execute(
                "UPDATE journal SET event = ? WHERE number = ?",
                (msgspec.json.encode(changed), number),
            )


async def test_a_saga_whose_journal_cannot_be_read_is_forgotten(tmp_path: Path) -> None:
    """No other verb ends it, and none is offered; its row answers from then on."""
    async with running_chain(tmp_path, drain_seconds=0.1) as chain:
        await chain.script(chain.psp, script="error")
        await chain.send("s-1", Prefer="respond-async, wait=0")
        await chain.until("s-1", lambda saga: saga["step"] == "charge")
    damage(tmp_path / "payment.db")
    async with running_chain(tmp_path, drain_seconds=0.1) as chain:
        saga = await chain.until("s-1", lambda saga: saga["parked"])
        assert "journal_mismatch" == saga["parked_cause"]
        shown = (await chain.get(f"{chain.stage}/sagas/s-1?view=verbs"))["verbs"]
        assert ["forget"] == [each["verb"] for each in shown if each["why_not"] is None]
        for verb in ("retry", "abandon"):
            for dry_run in (True, False):
                assert 409 == (await do(chain, "s-1", verb, dry_run=dry_run))[0], verb

        assert 200 == (await do(chain, "s-1", "forget", dry_run=True))[0]
        assert 200 == (await do(chain, "s-1", "forget"))[0]

        saga = await chain.view("s-1")
        assert not saga["parked"] and saga["next_action"] is None
        assert ["forgotten"] == await acts_on(chain, "s-1")
        assert 410 == (await chain.send("s-1"))[0]
        assert 410 == (await chain.compensate("s-1"))[0]
        assert 200 == (await do(chain, "s-1", "erase"))[0]
