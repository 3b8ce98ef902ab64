"""Migrations on PostgreSQL: store.migrate.Dialect on one connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

import asyncpg

from stage.core.errors import ConfigurationError
from stage.store.migrate import Applied, Migration
from stage.store.postgres.link import Link

NAME: Final = "postgres"
LOCK: Final = 0x7374616765  # "stage"
"""The advisory lock of all that change the schema; it ends with their transaction."""


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
        """See store.migrate.Dialect."""
        key = (migration.owner, migration.name)
        async with self._locked():
            if not await self._link.fetch("has_migration", *key):
                await self._run(migration)
                await self._link.fetch("record_migration", *key, migration.sha256, now)

    async def _run(self, migration: Migration) -> None:
        name = f"{migration.owner}/{migration.name}"
        try:
            await self._link.raw.execute(migration.sql)
        except asyncpg.PostgresError as error:
            raise ConfigurationError(
                f"the migration {name} failed: {error}; nothing of it was applied. Mend the file"
            ) from error
        if not self._link.in_transaction:
            raise ConfigurationError(
                f"the migration {name} begins or ends a transaction: take BEGIN and COMMIT out,"
                " each file runs in one anyway"
            )

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """A transaction that no other upgrade runs beside."""
        await self._link.script("begin_upgrade")
        try:
            await self._link.fetch("lock_migrations", LOCK)
            yield
        except BaseException:
            await self._link.drop()
            raise
        await self._link.commit()
