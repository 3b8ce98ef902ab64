"""The migrations and the identity of a database on a server, for commands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from stage.bootstrap.encryption import sealed_codec
from stage.bootstrap.generations import (
    Accepted,
    Change,
    give_up,
    released,
    restored,
    stop_sweeps,
    unadopted,
)
from stage.core.errors import ConfigurationError
from stage.core.lost import unasked
from stage.ports.identity import Identity
from stage.ports.store import Row
from stage.store import migrate
from stage.store.identity import values
from stage.store.migrate import Migration, MigrationStatus
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.dialect import PostgresDialect
from stage.store.postgres.errors import unavailable
from stage.store.postgres.identity import read_identity, refuse_owner, take
from stage.store.postgres.link import Link, connect

if TYPE_CHECKING:
    from stage.store.reencryption import Reencrypted
    from stage.store.sqlite.backup import Backup

T = TypeVar("T")


class ServerDatabase:
    """As bootstrap.database.Database, on PostgreSQL: a context manager.

    Migrations are applied under a lock of the database, one process at a time, also while replicas
    serve from it. Its identity is changed only while all of them are stopped.
    """

    def __init__(self, server: DatabaseServer, folders: tuple[Path, ...], *, make: bool) -> None:
        self._server = server
        self._folders = folders
        self._make = make
        self._runner = asyncio.Runner()
        self._link: Link

    def __enter__(self) -> Self:
        try:
            self._link = self._run(connect(self._server))
            found = self._run(self._dialect.applied())
            if self._make and found:
                raise ConfigurationError(
                    f"there is a database of a stage in {self.path} already: `stage db upgrade`"
                    " brings it up to date"
                )
            if not self._make and not found:
                raise ConfigurationError(
                    f"the database {self.path} is that of no stage yet: make it with"
                    " `stage db init`"
                )
            if self._make:
                self.upgrade()
            refuse_owner(self.identity, self._server)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if hasattr(self, "_link"):
            self._run(self._link.close())
        self._runner.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises StoreUnavailable where the server is away."""
        try:
            return self._runner.run(work)
        except Exception as error:
            if (gone := unavailable(error)) is None:
                raise
            raise gone from error

    @property
    def _dialect(self) -> PostgresDialect:
        return PostgresDialect(self._link)

    @property
    def path(self) -> str:
        """Where the database is, without credentials."""
        return self._server.shown

    @property
    def identity(self) -> Identity | None:
        """The identity of the database; None before its first upgrade."""
        return self._run(read_identity(self._link))

    def status(self) -> list[MigrationStatus]:
        """Every migration with its state."""
        return self._run(migrate.status(self._dialect, self._folders))

    def sql(self) -> str:
        """The SQL of all pending migrations."""
        return self._run(migrate.pending_sql(self._dialect, self._folders))

    def admit_upgrade(self) -> None:
        """Each migration looks by itself, under the lock of all that change the schema."""

    def upgrade(self) -> list[Migration]:
        """Apply the pending migrations, and return them. Raises ConfigurationError."""
        applied = self._run(migrate.upgrade(self._dialect, self._folders, now=self._server.now()))
        self._run(take(self._link, self._server))
        return applied

    def restored(self, as_of: float) -> Accepted:
        """Accept a backup of that age that was put back: a new generation begins with it.

        No sweep of it goes on by itself.
        """
        ((latest,),) = self.read("latest_change")
        found = self._to_be_changed()
        stopped = stop_sweeps(self.read, self._server.now())
        identity = self._write(found, restored(as_of, latest, lambda found: found.generation))
        return Accepted(identity=identity, stopped_sweeps=stopped)

    def reconciled(self, answers: Mapping[str, str]) -> None:
        """Remember which neighbours were asked, with what each of them answered."""
        now, identity = self._server.now(), self.identity
        generation = 0 if identity is None else identity.generation
        for neighbour, answer in answers.items():
            self._run(self._link.fetch("put_reconciled", generation, neighbour, answer, now))

    def unreconciled(self, neighbours: Iterable[str]) -> list[str]:
        """The neighbours that were not asked since the backup was put back."""
        identity = self.identity
        generation = 0 if identity is None else identity.generation
        found = self._run(self._link.fetch("get_reconciled", generation))
        return unasked(neighbours, {row[0]: row[1] for row in found})

    def released(
        self, neighbours: Iterable[str] = (), given_up: Mapping[str, str] | None = None
    ) -> Identity:
        """Vouch for the generation: a saga that is not in the database was never here.

        Raises ConfigurationError while one of these neighbours was not asked, or a saga is lost
        that somebody asked to compensate, but for those `given_up`, each with a reason.
        """
        found, reasons = self._to_be_changed(), given_up or {}
        lost = {saga_id for saga_id, _, _ in self.lost_sagas()}
        change = released(self.unreconciled(neighbours), lost - reasons.keys())
        give_up(self.read, self._server.now(), reasons)
        return self._write(found, change)

    def reencrypt(self, key_file: str) -> Reencrypted:
        """Bring all contents under the first key of the file, also beside replicas that are up."""
        codec = sealed_codec(key_file)

        from stage.store.postgres.payload_keys import reencrypt  # needs the extra `encryption`

        return self._run(reencrypt(self._link, codec))

    def wrongs(self) -> list[str]:
        """The faults of the rows in words. The pages are the server's to check."""
        uneven = self._run(self._link.fetch("uneven_sagas"))
        stray = self._run(self._link.fetch("stray_entries"))
        return [
            *(
                f"saga {saga_id} has {entries} journal entries where its row says {length}"
                for saga_id, length, entries in uneven
            ),
            *(f"saga {saga_id} has journal entries and no row" for (saga_id,) in stray),
        ]

    def back_up(self, path: Path) -> Backup:
        """Refused: the server has tools of its own for that."""
        raise ConfigurationError(
            f"the database {self.path} is on a server: back it up with pg_basebackup or pg_dump,"
            " or as your platform does"
        )

    def refuse_beside_replicas(self, fix: str) -> None:
        """Raise ConfigurationError with that fix while a replica serves from the database."""
        ((can_register,),) = self.read("has_replicas")
        if can_register and (serving := [name for (name,) in self.read("live_replicas")]):
            raise ConfigurationError(
                f"{', '.join(serving)} still serves from the database {self.path}: {fix}"
            )

    def read(self, name: str, *parameters: object) -> list[Row]:
        """The rows of a statement."""
        return self._run(self._link.fetch(name, *parameters))

    def lost_sagas(self) -> list[Row]:
        """Saga id, neighbour and reason of each request about a saga that is still lost."""
        return unadopted(self.read)

    def _to_be_changed(self) -> Identity:
        """The identity, while nobody serves. Raises ConfigurationError."""
        found = self.identity
        if found is None:
            raise ConfigurationError(
                f"the database {self.path} has no identity yet: run `stage db upgrade`"
            )
        self.refuse_beside_replicas("stop it")
        return found

    def _write(self, found: Identity, change: Change) -> Identity:
        changed = change(found, self._server.now())
        self._run(self._link.fetch("put_identity", *values(changed)))
        self._run(self._link.fetch("bury_all"))
        return changed
