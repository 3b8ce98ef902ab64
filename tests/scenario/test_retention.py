"""Sagas whose answers, or whose rows, were dropped for their age (decision 0080)."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.bootstrap import database_log
from stage.core.unseen import first_id_at
from stage.inbound.aiohttp import SERVICE
from tests.scenario.attacks.test_encrypted_canaries import key_file
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.scenario.restored import restored_chain
from tests.scenario.test_operator import WHO
from tests.scenario.test_sweeps import acts_on, until_done

DAY = 86_400.0
NO_WINDOW: dict[str, Any] = {"compensation_window_seconds": 0.0}
ROWS: dict[str, Any] = {**NO_WINDOW, "rows_retention_days": 0.0}
"""Days below what a setting may have: a row goes as soon as it is closed."""
ANSWERS: dict[str, Any] = {**NO_WINDOW, "answers_retention_days": 0.0}
PAST = "urn:saga-stage:problem:past-retention"


def dated(days_ago: float, last: int = 1) -> str:
    """A UUIDv7 that was made so many days ago."""
    return f"{first_id_at(time.time() - days_ago * DAY)}000-8000-{last:012x}"


def counted(folder: Path, where: str = "true") -> int:
    """How many rows of sagas there are."""
    with closing(sqlite3.connect(folder / "payment.db")) as database:
        (found,) = database.execute(f"SELECT count(*) FROM saga WHERE {where}").fetchone()
    return int(found)


async def until_counted(folder: Path, sagas: int, where: str = "true") -> None:
    """Return when there are so many."""
    for _ in range(500):
        if counted(folder, where) == sagas:
            return
        await asyncio.sleep(0.02)  # nobody is notified of it: it is housekeeping
    raise AssertionError(f"there are {counted(folder, where)} sagas, not {sagas}")


def read(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str, str]:
    """Code, outcome and type of an answer."""
    said = msgspec.json.decode(answer[2])
    return answer[0], said["outcome"], said.get("type", "")


async def ended(chain: Chain, *saga_ids: str) -> None:
    """Sagas that were executed."""
    for saga_id in saga_ids:
        assert 200 == (await chain.send(saga_id))[0]


async def test_a_repeat_of_a_dropped_saga_is_refused_and_nothing_false_is_said(
    tmp_path: Path,
) -> None:
    """Neither run anew, nor called not executed, nor buried: whoever asks, whatever it sends."""
    saga_id = dated(10)
    async with running_chain(tmp_path, **ROWS) as chain:
        await ended(chain, saga_id)
        await until_counted(tmp_path, 0)
        assert (410, "unknown", PAST) == read(await chain.send(saga_id))
        other = {**ORDER, "amount": 1}
        assert (410, "unknown", PAST) == read(await chain.send(saga_id, other))
        wrong = await chain.send(saga_id, {"order_id": 1}, Idempotency_Key=saga_id)
        assert "unknown" == read(wrong)[1], wrong
        for by in ("order", "shipping", "stranger"):
            refused = await chain.compensate(saga_id, by, outcome="compensated")
            assert (409, "unknown", PAST) == read(refused)
        shown = await chain.request("GET", f"{chain.stage}/sagas/{saga_id}")
        assert (410, "unknown", PAST) == read(shown)
        assert (1, 1) == await chain.charges()
        assert 0 == counted(tmp_path)
        assert chain.app is not None
        engine = chain.app[SERVICE].engine
        assert {saga_id} == await engine.seen([saga_id, "o-9"])  # so it is not shed with a no
        assert 0 == (await engine.backlog()).lost  # nobody is alerted


async def test_a_late_deadline_says_nothing_of_a_dropped_saga(tmp_path: Path) -> None:
    """504 says not_executed, and leaves a tombstone."""
    saga_id = dated(10)
    async with running_chain(tmp_path, **ROWS) as chain:
        await ended(chain, saga_id)
        await until_counted(tmp_path, 0)
        late = await chain.send(saga_id, deadline=time.time() - 60)
        assert (410, "unknown", PAST) == read(late)
        assert 0 == counted(tmp_path)


async def test_a_dropped_saga_stays_so_when_retention_is_off_again(tmp_path: Path) -> None:
    """The mark is in the database, and no setting and no restart takes it back."""
    saga_id = dated(10)
    async with running_chain(tmp_path, **ROWS) as chain:
        await ended(chain, saga_id)
        await until_counted(tmp_path, 0)
    async with running_chain(tmp_path) as chain:
        assert (410, "unknown", PAST) == read(await chain.send(saga_id))
        assert (409, "unknown", PAST) == read(await chain.compensate(saga_id))
        await ended(chain, dated(0, 2))
        assert 200 == (await chain.compensate(dated(-0.1, 3)))[0]  # it was never here


async def test_a_saga_whose_id_has_no_instant_keeps_its_row(tmp_path: Path) -> None:
    """No repeat of it can be proved to come too late: code, outcome and hash stay for ever."""
    async with running_chain(tmp_path) as chain:
        await ended(chain, "o-1", dated(10))
        assert (2, 2) == await chain.charges()
    async with running_chain(tmp_path, **ROWS, answers_retention_days=0.0) as chain:
        await until_counted(tmp_path, 1)
        await until_counted(tmp_path, 1, "answer_body = x''")
        assert (410, "executed", PAST) == read(await chain.send("o-1"))
        assert 422 == (await chain.send("o-1", {**ORDER, "amount": 1}))[0]
        assert (0, 0) == await chain.charges()


@pytest.mark.blocking  # the test looks while ours waits for it
async def test_a_start_goes_on_where_a_row_that_it_just_read_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compares the latest sagas with its stage while retention has begun its work."""
    latest, saga_id = database_log._latest, dated(10)
    rows: list[Any] = []

    async def noted(*parameters: Any) -> Any:
        rows[:] = await latest(*parameters)
        return rows

    async def dropped_since(*_: Any) -> Any:
        await until_counted(tmp_path, 0)
        return rows

    async with running_chain(tmp_path) as chain:
        await ended(chain, saga_id)
    monkeypatch.setattr(database_log, "_latest", noted)
    async with running_chain(tmp_path):
        assert 1 == len(rows)
    monkeypatch.setattr(database_log, "_latest", dropped_since)
    async with running_chain(tmp_path, **ROWS) as chain:
        assert (410, "unknown", PAST) == read(await chain.send(saga_id))


async def test_a_repeat_without_its_answer_gets_the_outcome_and_no_yes(tmp_path: Path) -> None:
    """A 200 without the data would let its sender go on without it; an undo is refused truly."""
    async with running_chain(tmp_path) as chain:
        await ended(chain, "s-1")
    async with running_chain(tmp_path, **ANSWERS) as chain:
        await until_counted(tmp_path, 1, "answer_body = x''")
        first, again = await chain.send("s-1"), await chain.send("s-1")
        assert (410, "executed", PAST) == read(first)
        assert (first[2], "true") == (again[2], again[1]["Idempotency-Replayed"])
        assert (409, "executed") == read(await chain.compensate("s-1"))[:2]
        assert "completed" == (await chain.view("s-1"))["state"]
        assert (0, 0) == await chain.charges()


async def test_a_sealed_answer_goes_too_and_its_hash_stays(tmp_path: Path) -> None:
    """Another payload is refused by the hash, which is sealed as well."""
    key = key_file(tmp_path)
    async with running_chain(tmp_path, payload_key_file=key) as chain:
        await ended(chain, "s-1")
    async with running_chain(tmp_path, **ANSWERS, payload_key_file=key) as chain:
        await until_counted(tmp_path, 1, "answer_body = x''")
        assert (410, "executed", PAST) == read(await chain.send("s-1"))
        assert (422, "executed") == read(await chain.send("s-1", {**ORDER, "amount": 1}))[:2]
        assert (409, "executed") == read(await chain.compensate("s-1"))[:2]


async def test_an_erased_saga_does_not_get_a_yes_again(tmp_path: Path) -> None:
    """Its answer was dropped before: there is nothing to make another of."""
    async with running_chain(tmp_path) as chain:
        await ended(chain, "s-1")
    async with running_chain(tmp_path, **ANSWERS) as chain:
        await until_counted(tmp_path, 1, "answer_body = x''")
        url = f"{chain.stage}/sagas/s-1/erase"
        assert 200 == (await chain.request("POST", url, msgspec.json.encode(WHO)))[0]
        assert (410, "executed", PAST) == read(await chain.send("s-1"))


async def test_a_compensated_saga_keeps_its_code_without_its_words(tmp_path: Path) -> None:
    """Nothing stands, and that is said as before."""
    async with running_chain(tmp_path) as chain:
        await chain.send("s-1")
        assert 200 == (await chain.compensate("s-1", reason="the parcel of Kim was lost"))[0]
        code, _, body = await chain.send("s-1")
    async with running_chain(tmp_path, **ANSWERS) as chain:
        await until_counted(tmp_path, 1, "answer_body = x''")
        assert (code, "compensated", PAST) == read(await chain.send("s-1"))
        assert (410, True) == (code, b"Kim" in body)
        assert 200 == (await chain.compensate("s-1"))[0]


async def test_a_list_that_would_lack_dropped_sagas_is_refused(tmp_path: Path) -> None:
    """A neighbour with a restored database would take what is not on it for never sent."""
    async with running_chain(tmp_path, **ROWS) as chain:
        await ended(chain, dated(10))
        await until_counted(tmp_path, 0)
        for since, code in (("2020-01-01T00:00:00Z", 410), ("2099-01-01T00:00:00Z", 200)):
            url = f"{chain.stage}/sagas?since={since}&with=order"
            status, _, body = await chain.request("GET", url)
            assert code == status, body


async def test_a_backup_from_before_has_its_rows_and_answers_from_them(tmp_path: Path) -> None:
    """The mark is as old as the rows: both are in one file."""
    saga_id = dated(10)
    async with running_chain(tmp_path) as chain:
        await ended(chain, saga_id)
    await asyncio.to_thread(_copied, tmp_path / "payment.db", tmp_path / "backup.db")
    async with running_chain(tmp_path, **ROWS) as chain:
        await until_counted(tmp_path, 0)
        assert 410 == (await chain.send(saga_id))[0]
    url = f"sqlite:///{tmp_path / 'backup.db'}"
    async with running_chain(tmp_path, database=url) as chain:
        code, headers, _ = await chain.send(saga_id)
        assert (200, "true") == (code, headers["Idempotency-Replayed"])


@pytest.mark.blocking
async def test_a_restored_stage_says_nothing_of_a_dropped_saga_until_it_is_released(
    tmp_path: Path,
) -> None:
    """Each saga that it lacks may come back until then; from then on the mark counts."""
    saga_id = dated(10)
    async with restored_chain(tmp_path) as world:
        world.config = replace(world.config, **ROWS)
        async with world.serving() as chain:
            await ended(chain, saga_id)
            await until_counted(tmp_path, 0)
            await world.back_up()
        world.put_back()
        async with world.serving() as chain:
            assert (503, "unknown") == read(await chain.send(saga_id))[:2]
            assert (503, "unknown") == read(await chain.compensate(saga_id))[:2]
        await world.reconcile(order="its books were read", shipping="so were these")
        world.release()
        async with world.serving() as chain:
            assert "past-retention" in read(await chain.send(dated(11, 2)))[2]


def _copied(source: Path, copy: Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(copy)) as other:
        one.backup(other)


async def purged(chain: Chain, where: dict[str, Any] | None = None, **order: Any) -> dict[str, Any]:
    """The sweep once it is done."""
    named = {"where": where} if where else {}
    body = msgspec.json.encode({**WHO, "verb": "purge", "rate_per_second": 200, **named, **order})
    status, _, answer = await chain.request("POST", f"{chain.stage}/sweeps", body)
    assert 200 == status, answer
    swept: dict[str, Any] = msgspec.json.decode(answer)
    if not order.get("dry_run"):
        swept = await until_done(chain, swept["number"])
    return swept


async def test_a_purge_drops_what_ended_and_the_audit_keeps_that_it_did(tmp_path: Path) -> None:
    """The row of an id without an instant stays; a saga that is too young is refused."""
    old, young = dated(10), dated(1, 2)
    async with running_chain(tmp_path, **NO_WINDOW) as chain:
        await ended(chain, old, young, "o-1")
        await until_counted(tmp_path, 3, "closed_at IS NOT NULL")
        where = {"state": ["completed", "compensated"], "changed_before": "2099-01-01T00:00:00Z"}
        assert 3 == (await purged(chain, where, dry_run=True))["sagas"]
        assert 3 == counted(tmp_path)
        swept = await purged(chain, where)
        assert (2, 1) == (swept["done"], swept["refused"])
        assert "younger than 7 days" in swept["first_refused"][0]["detail"]
        assert [("purged", "completed, answered 200", "dropped")] == [
            (act["act"], act["before"], act["after"])
            for act in (await chain.get(f"{chain.stage}/audit?target={old}"))["acts"]
        ]
        again = await purged(chain, where)  # nothing is left to drop of the one whose row stays
        assert (0, 2) == (again["done"], again["refused"])
        assert "dropped already" in again["first_refused"][-1]["detail"]
        assert ["purged"] == await acts_on(chain, "o-1")
        assert (410, "unknown", PAST) == read(await chain.send(old))
        assert 200 == (await chain.send(young))[0]
        assert (3, 3) == await chain.charges()


@pytest.mark.blocking
async def test_nothing_of_a_restored_stage_is_purged_until_it_is_released(tmp_path: Path) -> None:
    """Its neighbours list what they know, and that is held against its rows."""
    saga_id = dated(10)
    where = {"state": ["completed"], "changed_before": "2099-01-01T00:00:00Z"}
    async with restored_chain(tmp_path) as world:
        world.config = replace(world.config, **NO_WINDOW)
        async with world.serving() as chain:
            await ended(chain, saga_id)
            await until_counted(tmp_path, 1, "closed_at IS NOT NULL")
            await world.back_up()
        world.put_back()
        async with world.serving() as chain:
            swept = await purged(chain, where)
            assert (0, 1) == (swept["done"], swept["refused"])
            assert "release it, then purge" in swept["first_refused"][0]["detail"]
        await world.reconcile(order="its books were read", shipping="so were these")
        world.release()
        async with world.serving() as chain:
            assert 1 == (await purged(chain, where))["done"]
            assert "past-retention" in read(await chain.send(saga_id))[2]


async def test_a_purge_leaves_what_can_still_be_undone(tmp_path: Path) -> None:
    """Within the window a completed saga has an undo to lose."""
    async with running_chain(tmp_path) as chain:
        await ended(chain, "s-1")
        swept = await purged(chain, saga_ids=["s-1", "t-1"])
        assert (0, 2) == (swept["done"], swept["refused"])
        assert "window is not over" in swept["first_refused"][0]["detail"]


async def test_old_acts_are_dropped_only_where_the_operator_says_so(tmp_path: Path) -> None:
    """The audit has a time of its own."""
    async with running_chain(tmp_path, **ROWS) as chain:
        await ended(chain, dated(10))
        await until_counted(tmp_path, 0)
        await purged(chain, saga_ids=["o-1"])
        assert [] != (await chain.get(f"{chain.stage}/audit"))["acts"]
    async with running_chain(tmp_path, **NO_WINDOW, audit_retention_days=0.0) as chain:
        for _ in range(500):
            if not (await chain.get(f"{chain.stage}/audit"))["acts"]:
                break
            await asyncio.sleep(0.02)  # nobody is notified of it: it is housekeeping
        else:
            pytest.fail("no act was dropped")
