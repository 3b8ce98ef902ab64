"""Migrations on PostgreSQL: store.migrate.Dialect on one connection."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

import asyncpg

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.store.migrate import OWNER, Applied, Migration
from stage.store.postgres.errors import unavailable
from stage.store.postgres.link import Link
from stage.store.postgres.table_guard import refused_table

NAME: Final = "postgres"
LOCK: Final = 0x7374616765  # "stage"
"""The advisory lock of all that change the schema; it ends with their transaction."""
LOCK_LOOK_SECONDS: Final = 0.1
"""How often that lock is asked for, each time in a new transaction. To wait for it within one would
hold a snapshot, for which an index that the holder of the lock builds would wait in turn, for ever.
"""
HELD: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""Others hold a table that the migration needs; they may wait for one that it has."""
TABLE_TRIES_MAX: Final = 30
"""How often a migration is begun that meets the lock of a table."""
TABLE_PAUSE_SECONDS: Final = 1.0
"""Between two tries: all that queued behind the lock goes on meanwhile."""
OUTSIDE: Final = "-- stage: outside a transaction\n"
"""The first line of a file whose statements run one by one, each of which ends with its line."""
_COMMENT: Final = re.compile(r"^--.*$", re.MULTILINE)
_STATEMENT_END: Final = re.compile(r";[ \t]*$", re.MULTILINE)


def statements_of(sql: str) -> list[str]:
    """The statements of a file that runs outside of a transaction, without its comments."""
    pieces = (piece.strip() for piece in _STATEMENT_END.split(_COMMENT.sub("", sql)))
    return [piece for piece in pieces if piece]


def _refuse_away(error: asyncpg.PostgresError) -> None:
    """Raise StoreUnavailable for a full disk, say: nothing in a file mends that."""
    if (gone := unavailable(error)) is not None:
        raise gone from error


def _refuse_ours(migration: Migration) -> None:
    """Raise ConfigurationError where a file of the author changes a table of the stage."""
    if migration.owner != OWNER and (refused := refused_table(migration.sql)):
        raise ConfigurationError(
            f"the migration {migration.title} failed: {refused}; nothing of it was applied. Mend"
            " the file"
        )


class PostgresDialect:
    """store.migrate.Dialect."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def name(self) -> str:
        """See store.migrate.Dialect."""
        return NAME

    @property
    def ours(self) -> Traversable:
        """See store.migrate.Dialect."""
        return resources.files("stage.store.postgres").joinpath("migrations")

    async def applied(self) -> list[Applied]:
        """See store.migrate.Dialect."""
        ((found,),) = await self._link.fetch("has_migrations")
        if not found:
            return []
        return [
            Applied(owner=owner, name=name, sha256=digest, applied_at=at)
            for owner, name, digest, at in await self._link.fetch("applied_migrations")
        ]

    async def prepare(self) -> None:
        """See store.migrate.Dialect."""
        ((found,),) = await self._link.fetch("has_migrations")
        if not found:  # a user who may not create a schema can still run on one that is there
            async with self._locked():
                await self._link.script("create_migrations")

    async def apply(self, migration: Migration, now: float) -> None:
        """See store.migrate.Dialect. A table that others hold is asked for again and again.

        A file that says so runs outside of a transaction: one that fails leaves what stands before
        the statement that failed, and is run from its beginning the next time.
        """
        for _ in range(TABLE_TRIES_MAX):
            try:
                await self._apply(migration, now)
                return
            except HELD as error:
                held = error
                await asyncio.sleep(TABLE_PAUSE_SECONDS)
        raise ConfigurationError(
            f"the migration {migration.owner}/{migration.name} met the locks of other transactions"
            f" {TABLE_TRIES_MAX} times: {held}; nothing of it was applied. End those that are open"
            " for long, such as a backup or a forgotten session, and say it again"
        ) from held

    async def _apply(self, migration: Migration, now: float) -> None:
        key = (migration.owner, migration.name)
        async with self._locked():
            if await self._link.fetch("has_migration", *key):
                return
            _refuse_ours(migration)
            if not migration.expands:
                await self._refuse_beside_replicas(migration)
            if migration.sql.startswith(OUTSIDE):
                await self._run_outside(migration)
            else:
                await self._run(migration)
            await self._link.fetch("record_migration", *key, migration.sha256, now)

    async def _refuse_beside_replicas(self, migration: Migration) -> None:
        """Raise ConfigurationError for a contraction while somebody serves (decision 0021).

        Replicas of this release that start together have applied it before they register.
        """
        ((can_register,),) = await self._link.fetch("has_replicas")
        if can_register and (serving := await self._link.fetch("live_replicas")):
            names = ", ".join(name for (name,) in serving)
            raise ConfigurationError(
                f"the migration {migration.owner}/{migration.name} is no expansion, and {names}"
                " still serves from the database: stop all replicas for it. The lease of one that"
                " was killed ends by itself"
            )

    async def _run_outside(self, migration: Migration) -> None:
        """Run its statements on another connection: this one holds the lock of all migrations."""
        await self._link.script("drop_snapshot")
        link = await self._link.another()
        try:
            if not link.pooled:  # a pooler would give the session to others so
                await link.fetch("lift_limits")
            for sql in statements_of(migration.sql):
                await link.raw.execute(sql)
        except HELD:
            raise
        except asyncpg.PostgresError as error:
            _refuse_away(error)
            raise ConfigurationError(
                f"the migration {migration.owner}/{migration.name} failed: {error}; what stands"
                " before that statement was applied, and is run again the next time. Mend the file"
            ) from error
        finally:
            await link.close()
        if not self._link.in_transaction:
            raise StoreUnavailable(
                f"the lock of migrations was lost while {migration.owner}/{migration.name} ran: it"
                " is run again the next time. Look who ended the connection; a pooler may have:"
                " `stage db upgrade` with a direct URL needs none"
            )

    async def _run(self, migration: Migration) -> None:
        name = f"{migration.owner}/{migration.name}"
        if migration.owner != OWNER:
            await self._link.script("begin_authored")
        try:
            await self._link.raw.execute(migration.sql)
        except HELD:
            raise
        except asyncpg.PostgresError as error:
            _refuse_away(error)
            raise ConfigurationError(
                f"the migration {name} failed: {error}; nothing of it was applied. Mend the file"
            ) from error
        if not self._link.in_transaction:
            raise ConfigurationError(
                f"the migration {name} begins or ends a transaction: take BEGIN and COMMIT out,"
                " each file runs in one anyway"
            )

    async def _lock(self) -> bool:
        """Begin a transaction with the lock of all migrations, unless somebody else has it."""
        await self._link.script("begin_upgrade")
        ((had,),) = await self._link.fetch("lock_migrations", LOCK)
        return bool(had)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """A transaction that no other upgrade runs beside."""
        try:
            while not await self._lock():
                await self._link.drop()
                await asyncio.sleep(LOCK_LOOK_SECONDS)
            yield
        except BaseException:
            await self._link.drop()
            raise
        await self._link.commit()
