"""Migrations of PostgreSQL beside a stage that is up: they wait for others, others not for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError
from stage.store import migrate
from stage.store.migrate import Migration
from stage.store.postgres import dialect
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.dialect import OUTSIDE, PostgresDialect, statements_of
from stage.store.postgres.link import Link, connect
from stage.store.postgres.store import PostgresStore

INDEX = f"""{OUTSIDE}
DROP INDEX CONCURRENTLY IF EXISTS payment_amount;
CREATE INDEX CONCURRENTLY payment_amount ON payment (amount);
"""
NOTE = "ALTER TABLE payment ADD COLUMN note text;"


@pytest.fixture
async def links(postgres_url: str) -> AsyncIterator[list[Link]]:
    """Three connections to an empty database."""
    made = [await connect(DatabaseServer(url=postgres_url)) for _ in range(3)]
    yield made
    for link in made:
        await link.close()


async def upgraded(dialect: PostgresDialect, folder: Path) -> list[str]:
    """The names of the author's migrations that were applied."""
    known = await asyncio.to_thread(migrate.collected, dialect, [folder])
    done = await migrate.upgrade_known(dialect, known, now=1.0)
    return [each.name for each in done if each.owner == folder.name]


async def whole(link: Link) -> bool:
    """Whether the index of the test stands, and is whole."""
    query = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'payment_amount'::regclass"
    return bool(await link.raw.fetchval(query))


async def test_two_replicas_build_an_index_once_and_neither_waits_for_the_other(
    links: list[Link], migrations: Path
) -> None:
    """One has the lock, and an index waits for each snapshot: nobody holds one who waits."""
    (migrations / "0002_amount.expand.postgres.sql").write_text(INDEX)

    one, other = await asyncio.gather(
        *(upgraded(PostgresDialect(link), migrations) for link in links[:2])
    )

    assert {"0001_payment", "0002_amount.expand"} <= {*one, *other}
    assert await whole(links[2])


async def test_a_build_that_fails_is_not_recorded_and_is_run_again(
    links: list[Link], migrations: Path
) -> None:
    """The remains of the first run are replaced: an index that is not whole is read by nobody."""
    mine = PostgresDialect(links[0])
    await upgraded(mine, migrations)
    await links[1].raw.execute("INSERT INTO payment VALUES ('a', 5), ('b', 5)")
    unique = INDEX.replace("CREATE INDEX", "CREATE UNIQUE INDEX")
    (migrations / "0002_amount.expand.postgres.sql").write_text(unique)

    with pytest.raises(ConfigurationError, match="is run again the next time"):
        await upgraded(mine, migrations)
    assert not await whole(links[1])
    await links[1].raw.execute("DELETE FROM payment WHERE saga_id = 'b'")

    assert ["0002_amount.expand"] == await upgraded(mine, migrations)
    assert await whole(links[1])


@pytest.mark.parametrize(
    "limit",
    [
        "idle_in_transaction_session_timeout",
        "statement_timeout",
        "lock_timeout",
        "transaction_timeout",
    ],
)
async def test_no_limit_of_the_role_ends_the_build_of_an_index(
    links: list[Link], migrations: Path, postgres_url: str, limit: str
) -> None:
    """A build waits for older transactions, and the lock of all migrations idles meanwhile."""
    await upgraded(PostgresDialect(links[0]), migrations)
    if not await links[0].raw.fetch("SELECT FROM pg_settings WHERE name = $1", limit):
        pytest.skip(f"this release of PostgreSQL has no {limit}")
    (migrations / "0002_amount.expand.postgres.sql").write_text(INDEX)
    await links[1].raw.execute("BEGIN; INSERT INTO payment VALUES ('older', 1)")
    limited = await connect(DatabaseServer(url=f"{postgres_url}?{limit}=500"))
    building = asyncio.ensure_future(upgraded(PostgresDialect(limited), migrations))

    await asyncio.wait((building,), timeout=1.5)
    await links[1].raw.execute("COMMIT")
    try:
        assert ["0002_amount.expand"] == await building
        assert await whole(links[1])
    finally:
        await limited.close()


class Hindered(PostgresDialect):
    """Somebody else holds a table at the first try, and lets go of it behind that."""

    def __init__(self, link: Link, other: Link) -> None:
        super().__init__(link)
        self._other = other
        self.tries = 0

    async def _apply(self, migration: Migration, now: float) -> None:
        self.tries += 1
        if self.tries == 2:
            await self._other.raw.execute("INSERT INTO payment VALUES ('passes', 1); COMMIT")
        await super()._apply(migration, now)


async def test_a_migration_that_meets_a_lock_lets_the_others_pass_and_tries_again(
    links: list[Link], migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not stand in line: behind it nobody could read the table either."""
    monkeypatch.setattr(dialect, "TABLE_PAUSE_SECONDS", 0.0)
    await upgraded(PostgresDialect(links[0]), migrations)
    (migrations / "0002_note.expand.sql").write_text(NOTE)
    await links[1].raw.execute("BEGIN; LOCK TABLE payment IN ROW EXCLUSIVE MODE")
    mine = Hindered(links[0], links[1])

    assert ["0002_note.expand"] == await upgraded(mine, migrations)
    assert 2 == mine.tries
    assert 1 == await links[2].raw.fetchval("SELECT count(note IS NULL) FROM payment")


class Crossed(PostgresDialect):
    """A stage that is up has the one table at the first try, and then asks for the other."""

    def __init__(self, link: Link, other: Link) -> None:
        super().__init__(link)
        self._other = other
        self.tries = 0
        self.asking: asyncio.Task[str] | None = None

    async def _apply(self, migration: Migration, now: float) -> None:
        self.tries += 1
        if self.tries == 1:
            await self._other.raw.execute("BEGIN; SET LOCAL deadlock_timeout = '1min'")
            await self._other.raw.execute("INSERT INTO beside VALUES (1)")
            self.asking = asyncio.create_task(self._ask())
        await super()._apply(migration, now)

    async def _ask(self) -> str:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        looking = await self._link.another()
        while not await looking.raw.fetchval(waiting):  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
        await looking.close()
        asked = "INSERT INTO payment VALUES ('passes', 1); COMMIT"
        return str(await self._other.raw.execute(asked))


async def test_a_migration_that_waits_in_a_circle_tries_again(
    links: list[Link], migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one table and needs the other; a unit has that, and needs the first one."""
    monkeypatch.setattr(dialect, "TABLE_PAUSE_SECONDS", 0.0)
    await upgraded(PostgresDialect(links[0]), migrations)
    await links[1].raw.execute("CREATE TABLE beside (one integer)")
    both = f"{NOTE} ALTER TABLE beside ADD COLUMN note text;"
    (migrations / "0002_note.expand.sql").write_text(both)
    mine = Crossed(links[0], links[1])

    assert ["0002_note.expand"] == await upgraded(mine, migrations)
    assert mine.asking is not None and "COMMIT" == await mine.asking
    assert 2 == mine.tries


async def test_a_lock_that_never_goes_is_named(
    links: list[Link], migrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fix, and nothing of the file is applied."""
    monkeypatch.setattr(dialect, "TABLE_TRIES_MAX", 1)
    monkeypatch.setattr(dialect, "TABLE_PAUSE_SECONDS", 0.0)
    mine = PostgresDialect(links[0])
    await upgraded(mine, migrations)
    (migrations / "0002_note.expand.sql").write_text(NOTE)
    await links[1].raw.execute("BEGIN; LOCK TABLE payment IN ROW EXCLUSIVE MODE")

    with pytest.raises(ConfigurationError, match="End those that are open for long"):
        await upgraded(mine, migrations)
    assert "0002_note.expand" not in [each.name for each in await mine.applied()]


def test_a_file_outside_of_a_transaction_is_parted_at_the_ends_of_lines() -> None:
    """Comments between and after the statements are none, and one may take several lines."""
    text = (
        f"{OUTSIDE}-- first; this one\nSELECT ';'\n  AS one;\n\n-- the end;\nSELECT 2;\n-- over\n"
    )

    assert ["SELECT ';'\n  AS one", "SELECT 2"] == statements_of(text)


async def test_a_contraction_is_refused_beside_a_replica(
    postgres_url: str, links: list[Link], migrations: Path
) -> None:
    """At a start as by a command: what serves would meet a table that it does not know.

    An expansion passes, and so does all of it once nobody serves.
    """
    serving = PostgresStore(postgres_url, migrations=[migrations])
    await serving.open()
    (migrations / "0002_note.expand.sql").write_text(NOTE)
    (migrations / "0003_amount.contract.sql").write_text("ALTER TABLE payment DROP COLUMN amount;")
    mine = PostgresDialect(links[0])
    with pytest.raises(ConfigurationError, match=r"0003_amount.contract is no expansion, and .*:"):
        await upgraded(mine, migrations)
    with pytest.raises(ConfigurationError, match=r"still serves .* stop all replicas"):
        await PostgresStore(postgres_url, migrations=[migrations]).open()
    assert "0002_note.expand" in [each.name for each in await mine.applied()]
    assert 0 == await links[1].raw.fetchval("SELECT count(amount) + count(note) FROM payment")
    await serving.close()
    assert ["0003_amount.contract"] == await upgraded(mine, migrations)


async def test_replicas_that_start_together_apply_a_contraction_once(
    postgres_url: str, migrations: Path
) -> None:
    """The first one may serve before another one looks: it has applied it by then."""
    first = PostgresStore(postgres_url, migrations=[migrations])
    await first.open()
    await first.close()
    (migrations / "0003_amount.contract.sql").write_text("ALTER TABLE payment DROP COLUMN amount;")
    stores = [PostgresStore(postgres_url, migrations=[migrations]) for _ in range(4)]
    await asyncio.gather(*(each.open() for each in stores))
    assert all(set(each.migrated) <= {"migrations/0003_amount.contract"} for each in stores)
    for each in stores:
        await each.close()
