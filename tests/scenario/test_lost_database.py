"""A database that is not the one it was: what neighbours are answered (rule 33, protocol 3.4)."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from stage.bootstrap import make_store, open_database
from stage.bootstrap.database_log import log_database
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment
from stage.telemetry import logs
from stage.wire.envelope import parse_instant
from tests.scenario.chain import Chain, running_chain

BEFORE, AFTER = "2020-01-01T00:00:00Z", "2100-01-01T00:00:00Z"


async def ask(chain: Chain, saga_id: str, **members: str) -> tuple[int, str]:
    """Ask to compensate; the code and the outcome."""
    url = f"{chain.stage}/sagas/{saga_id}/compensate"
    body = msgspec.json.encode({"requested_by": "order", "reason": "no", **members})
    status, _, answer = await chain.request("POST", url, body)
    return status, msgspec.json.decode(answer)["outcome"]


async def test_a_saga_sent_before_the_database_was_made_is_not_known(chain: Chain) -> None:
    """503 `unknown` and no tombstone where the request proves it; an alert; kept for later."""
    assert (503, "unknown") == await ask(chain, "s-1", first_sent_at=BEFORE)
    assert (503, "unknown") == await ask(chain, "s-1", first_sent_at=BEFORE)
    assert (503, "unknown") == await ask(chain, "0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10")
    assert (200, "compensated") == await ask(chain, "s-2", first_sent_at=AFTER)
    assert (200, "compensated") == await ask(chain, "s-3")
    assert 200 == (await chain.send("s-1"))[0], "no tombstone was written"
    _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
    assert b"\nstage_lost_sagas 1.0\n" in metrics, "what came is not lost"


async def test_an_unknown_saga_of_a_downstream_is_answered_409(
    chain: Chain, tmp_path: Path
) -> None:
    """It has it from here: 409 `unknown`, an alert, and what it says is kept."""
    assert (409, "unknown") == await ask(chain, "s-1", requested_by="shipping", reason="late")
    assert (409, "unknown") == await ask(chain, "s-1", requested_by="shipping")
    _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
    assert b"\nstage_lost_sagas 1.0\n" in metrics
    with closing(sqlite3.connect(tmp_path / "payment.db")) as connection:
        kept = connection.execute("SELECT saga_id, requested_by, reason FROM lost_saga").fetchall()
    assert [("s-1", "shipping", "late")] == kept


async def test_a_time_that_is_none_is_refused(chain: Chain) -> None:
    """Before any effect (rule 25)."""
    url = f"{chain.stage}/sagas/s-1/compensate"
    for wrong in (b'"yesterday"', b"1", b"null"):
        status, _, _ = await chain.request("POST", url, b'{"first_sent_at": ' + wrong + b"}")
        assert 422 == status


@pytest.mark.blocking
async def test_a_relative_path_from_another_folder_makes_no_database_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 8: a warning has the absolute path; with `database_must_exist` the start is refused."""
    said: list[tuple[str, str]] = []
    log = SimpleNamespace(
        warning=lambda event, **members: said.append((event, members["path"])),
        info=lambda event, **members: said.append((event, members["path"])),
    )
    monkeypatch.setattr(logs, "default_logger", lambda: log)
    config = Config(database="sqlite:///payment.db", externals={"psp": "http://127.0.0.1:1"})
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        store = make_store(payment, config)
        await store.open()
        log_database(store)
        await store.close()
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    with pytest.raises(ConfigurationError, match="there is no database"):
        await make_store(payment, replace(config, database_must_exist=True)).open()

    paths = [str(tmp_path / name / "payment.db") for name in ("one", "other")]
    assert [("database_made", path) for path in paths] == said


@pytest.mark.blocking
async def test_a_backup_put_back_knows_no_saga_since_then(tmp_path: Path) -> None:
    """Case 8: a charge and a shipment that the backup lacks are never said to be compensated.

    Refused at start; accepted by name it is not ready, and every unknown id is 503 `unknown`
    until it is released; what is in the backup is answered as before.
    """
    path, copy = tmp_path / "payment.db", tmp_path / "copy.db"
    config = Config(database=f"sqlite:///{path}", externals={"psp": "http://127.0.0.1:1"})
    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        await chain.get(f"{chain.stage}/sagas")  # an answer does not wait for the last commit
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        assert 200 == (await chain.send("s-2"))[0]
    for name in (path.name + "-wal", path.name + "-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(copy, path)
    with pytest.raises(ConfigurationError, match="older copy"):
        await make_store(payment, config).open()
    with open_database(payment, config) as database:
        assert 2 == database.restored(parse_instant(BEFORE)).identity.generation

    async with running_chain(tmp_path) as chain:
        assert 503 == (await chain.request("GET", f"{chain.stage}/readyz"))[0]
        assert (503, "unknown") == await ask(chain, "s-2")
        for answer in (
            await chain.send("s-2"),
            await chain.request("GET", f"{chain.stage}/sagas/s-2"),
        ):
            assert (503, "unknown") == (answer[0], msgspec.json.decode(answer[2])["outcome"])
        why = b'{"actor": "kim", "reason": "why"}'
        verb = await chain.request("POST", f"{chain.stage}/sagas/s-2/forget", why)
        assert (503, "unknown") == (verb[0], msgspec.json.decode(verb[2])["outcome"])
        assert 200 == (await chain.send("s-1"))[0], "what is in the backup is answered"
    with open_database(payment, config) as database:
        assert [("s-2", "order", "no")] == database.lost_sagas()
        database.released(given_up={"s-2": "its charge was refunded by hand"})
    async with running_chain(tmp_path) as chain:
        assert 200 == (await chain.request("GET", f"{chain.stage}/readyz"))[0]
        assert (200, "compensated") == await ask(chain, "s-3", first_sent_at=BEFORE)
