"""A database is put back in which a sweep runs that a person has stopped since."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stage.bootstrap import open_database
from stage.config import Config
from stage.demo.payment import payment
from stage.demo.postgres_server import Server
from tests.scenario.restored import RestoredChain, restored_chain
from tests.scenario.test_sweeps import post, until_done

pytestmark = pytest.mark.blocking

PUT_BACK = "stopped: an older database was put back"
RUNNING = """
    INSERT INTO {} (at, actor, verb, reason, step, named, rate, state)
    VALUES (1.0, 'kim', 'forget', 'all is done by hand', '', 'it', 1.0, 'running'),
        (2.0, 'kim', 'vanish', 'a verb of a newer release', '', 'it', 1.0, 'running'),
        (3.0, 'kim', 'retry', 'psp is back', '', 'it', 1.0, 'done')
"""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoredChain]:
    async with restored_chain(tmp_path) as running:
        yield running


async def test_a_sweep_of_the_backup_goes_on_when_a_person_says_so(world: RestoredChain) -> None:
    """It was stopped behind the backup: nobody has pressed what it would do from here on."""
    ids = [f"s-{number}" for number in range(4)]
    async with world.serving() as chain:
        for saga_id in ids:
            assert 200 == await world.order(saga_id)
        _, sweep = await post(
            chain, "/sweeps", verb="compensate", saga_ids=ids, rate_per_second=0.5
        )
        await world.back_up()
        await post(chain, f"/sweeps/{sweep['number']}/stop")
    world.put_back()
    async with world.serving() as chain:
        await asyncio.sleep(2.5)
        seen = await chain.get(f"{chain.stage}/sweeps/{sweep['number']}")
        assert ("stopped", 4) == (seen["state"], seen["pending"])
        audit: Any = await chain.get(f"{chain.stage}/audit?target=sweep%20{sweep['number']}")
        act = audit["acts"][0]
        assert ("sweep_compensate", "stage db restored") == (act["act"], act["actor"])
        assert (PUT_BACK, "running") == (act["reason"], act["before"])
        assert act["after"] == f"stopped, 4 sagas: {seen['where']}"
        await post(chain, f"/sweeps/{sweep['number']}/resume")
        assert 4 == (await until_done(chain, sweep["number"]))["done"]


def test_every_sweep_that_runs_in_a_file_is_stopped(tmp_path: Path) -> None:
    """Also one whose verb only a newer release knows."""
    path = tmp_path / "p.db"
    config = Config(database=f"sqlite:///{path}")

    def sql(text: str) -> list[str]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return [str(value) for (value,) in connection.execute(text)]

    _stopped(config, sql, "stage_sweep", "stage_audit")


def test_every_sweep_that_runs_on_a_server_is_stopped(postgres: Server, postgres_url: str) -> None:
    """As after a failover to a standby that lacked the last commits."""
    name = postgres_url.rpartition("/")[2]

    def sql(text: str) -> list[str]:
        return [line.strip() for line in postgres.sql(text, name).splitlines() if line.strip()]

    _stopped(Config(database=postgres_url), sql, "stage.sweep", "stage.audit")


def _stopped(config: Config, sql: Callable[[str], list[str]], sweep: str, audit: str) -> None:
    with open_database(payment, config, make=True):
        pass
    sql(RUNNING.format(sweep))
    with open_database(payment, config) as database:
        assert (1, 2) == database.restored(0.0).stopped_sweeps
    with open_database(payment, config) as database:
        assert () == database.restored(0.0).stopped_sweeps
    assert ["stopped", "stopped", "done"] == sql(f"SELECT state FROM {sweep} ORDER BY number")
    acts = sql(f"SELECT act || ' ' || target || ': ' || reason FROM {audit} ORDER BY number")
    assert [f"sweep_forget sweep 1: {PUT_BACK}", f"sweep_vanish sweep 2: {PUT_BACK}"] == acts


def test_a_backup_of_a_release_without_sweeps_is_accepted(tmp_path: Path) -> None:
    """Its tables come with the upgrade of the next start."""
    path = tmp_path / "p.db"
    config = Config(database=f"sqlite:///{path}")
    with open_database(payment, config, make=True):
        pass
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("DROP TABLE stage_sweep_saga; DROP TABLE stage_sweep")
    with open_database(payment, config) as database:
        assert 2 == database.restored(0.0).identity.generation
