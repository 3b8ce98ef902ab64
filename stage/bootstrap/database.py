"""The configured database: the store of a stage, and its migrations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap.database_log import report_unpromised, report_waiting
from stage.bootstrap.encryption import codec_of, sealed_codec
from stage.bootstrap.generations import (
    Accepted,
    Change,
    give_up,
    released,
    restored,
    stop_sweeps,
    unadopted,
)
from stage.bootstrap.seat import Seat
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.core.lost import unasked
from stage.core.version import __version__
from stage.engine.clock import SystemClock
from stage.ports.identity import Identity
from stage.ports.store import Row, Store
from stage.store.memory import MemoryStore
from stage.store.memory_database import MemoryDatabase
from stage.store.migrate import Migration, MigrationStatus
from stage.store.postgres.address import POSTGRESQL, DatabaseServer
from stage.store.sqlite import dialect
from stage.store.sqlite.backup import Backup, back_up, wrongs
from stage.store.sqlite.file_set import check_listed, copy_list, mark_restored
from stage.store.sqlite.identity import (
    DatabaseFile,
    Mark,
    is_made,
    last_number,
    missing,
    read_identity,
    refuse_foreign,
    refuse_owner,
    take,
    write_identity,
)
from stage.store.sqlite.left_log import refuse_foreign_log_beside
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.making import make_database
from stage.store.sqlite.statements import statement
from stage.store.sqlite.store import SqliteStore
from stage.store.suspects import SuspectsPage
from stage.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from stage.bootstrap.server_database import ServerDatabase
    from stage.store.reencryption import Reencrypted

SQLITE = "sqlite:///"
MEMORY = ":memory:"
DRIVER_MISSING = "a postgresql:// database needs asyncpg: pip install 'saga-stage[postgres]'"


def make_store(
    stage: StageDeclaration[Any, Any],
    config: Config,
    metrics: Metrics | None = None,
    seat: Seat | None = None,
) -> Store:
    """The store that the database URL names; with a `seat`, the store of one of several workers.

    Raises ConfigurationError.
    """
    committed = None if metrics is None else metrics.committed
    if config.database.startswith(POSTGRESQL):
        return make_postgres_store(stage, config, metrics)
    name = _sqlite_name(config)
    if name == MEMORY:
        born = Identity(id=uuid4().hex, stage=stage.name, born_at=SystemClock().now())
        return MemoryStore(
            database=MemoryDatabase(migration_folders(stage), born), codec=codec_of(config)
        )
    return SqliteStore(
        seated(database_file(stage, config), seat),
        migrations=migration_folders(stage),
        committed=committed,
        codec=codec_of(config),
    )


def make_postgres_store(
    stage: StageDeclaration[Any, Any], config: Config, metrics: Metrics | None
) -> Store:
    """The store on a server. Raises ConfigurationError where its driver is not installed."""
    try:
        from stage.store.postgres.store import NOBODY, Listeners, PostgresLimits, PostgresStore
    except ImportError as error:
        raise ConfigurationError(DRIVER_MISSING) from error
    listeners = NOBODY
    if metrics is not None:
        listeners = Listeners(
            committed=metrics.committed, waited=metrics.waited, unpromised=report_unpromised
        )
    return PostgresStore(
        database_server(stage, config),
        migrations=migration_folders(stage),
        limits=PostgresLimits(lease_seconds=config.lease_seconds),
        listeners=listeners,
        codec=codec_of(config),
    )


def open_server_database(
    server: DatabaseServer, folders: tuple[Path, ...], *, make: bool
) -> ServerDatabase:
    """The database on a server, for commands. Raises ConfigurationError without its driver."""
    try:
        from stage.bootstrap.server_database import ServerDatabase
    except ImportError as error:
        raise ConfigurationError(DRIVER_MISSING) from error
    return ServerDatabase(server, folders, make=make)


def database_server(stage: StageDeclaration[Any, Any], config: Config) -> DatabaseServer:
    """The configured server, and whose the database has to be."""
    return DatabaseServer(
        url=config.database,
        stage=stage.name,
        release=__version__,
        must_exist=config.database_must_exist,
        former=tuple(each.name for each in stage.family()),
    )


def database_file(stage: StageDeclaration[Any, Any], config: Config) -> DatabaseFile:
    """The configured file, and whose it has to be. Raises ConfigurationError."""
    name = _sqlite_name(config)
    if name == MEMORY:
        raise ConfigurationError(f"database {config.database!r} is new at each start: name a file")
    return DatabaseFile(
        path=Path(name).absolute(),
        stage=stage.name,
        release=__version__,
        must_exist=config.database_must_exist,
        lock_wait_seconds=config.lock_wait_seconds,
        waiting=report_waiting,
        former=tuple(each.name for each in stage.family()),
    )


def seated(file: DatabaseFile, seat: Seat | None) -> DatabaseFile:
    """The file of a worker. All files were there when the workers were started."""
    if seat is None:
        return file
    sizes = () if seat.placement is None else seat.placement.sizes
    first = msgspec.structs.replace(file, path=seat.first)
    return msgspec.structs.replace(
        file,
        worker=seat.index,
        workers=seat.processes,
        must_exist=True,
        check=partial(check_listed, first, sizes, seat.index),
    )


def make_suspects(config: Config) -> SuspectsPage:
    """The record of author code, with its page beside a database that outlives the process."""
    if config.database.startswith(POSTGRESQL):
        return SuspectsPage(None)  # there is no file that a page could stand beside
    name = _sqlite_name(config)
    return SuspectsPage(None if name == MEMORY else Path(name))


class Database:
    """One SQLite file with its migrations, for commands: a context manager.

    To look needs no lock. To change takes the lock of the file, so that no process serves from it
    meanwhile; expansions alone are applied beside a stage that is up, in its pauses. The file has
    to exist; with `make` it must not, and is made.
    """

    def __init__(self, file: DatabaseFile, folders: tuple[Path, ...], *, make: bool) -> None:
        self._file = file
        self._folders = folders
        self._make = make
        self._lock = FileLock(file.path)
        self._alone: bool | None = None
        """Whether the lock was had for an upgrade; None before it was asked for."""

    def __enter__(self) -> Self:
        path = self._file.path
        if self._make:
            if path.is_dir():
                raise ConfigurationError(f"{path} is a folder: give the path of a file in it")
            self._refuse_made()
            self._lock.acquire()
        elif not is_made(path):
            raise missing(path)
        try:
            if self._make:
                self._refuse_made()  # another process may have made it before we had the lock
                make_database(self._file, self._folders, self._lock)
            self._connect()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _refuse_made(self) -> None:
        path = self._file.path
        if path.exists() and path.stat().st_size:
            raise ConfigurationError(
                f"there is a database {path} already: `stage db upgrade` brings it up to date"
            )

    def _connect(self) -> None:
        """Raises ConfigurationError for a file that is not that of the stage."""
        refuse_foreign_log_beside(self._file.path)
        self._connection = sqlite3.connect(self._file.path, isolation_level=None)
        try:
            for name in ("busy_timeout", "no_checkpoint"):
                self._connection.execute(statement(name)).fetchall()
            refuse_foreign(self._connection, self._file)
            found = read_identity(self._connection)
            refuse_owner(found, self._file)
            if self._make and found is not None:
                self._remember(found)
        except BaseException:
            self._connection.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._lock.release()

    @property
    def path(self) -> Path:
        """Where the file is: an absolute path."""
        return self._file.path

    @property
    def identity(self) -> Identity | None:
        """The identity of the database; None before its first upgrade."""
        return read_identity(self._connection)

    def status(self) -> list[MigrationStatus]:
        """Every migration with its state."""
        return dialect.status(self._connection, self._folders)

    def sql(self) -> str:
        """The SQL of all pending migrations."""
        return dialect.pending_sql(self._connection, self._folders)

    def admit_upgrade(self) -> None:
        """Take the lock, so that no process serves from the file while all is applied.

        Beside one that does, expansions alone may be: raises ConfigurationError where anything else
        is pending. Nothing is applied yet.
        """
        pending = dialect.pending(self._connection, self._folders)
        try:
            self._lock.acquire()
            self._alone = True
        except ConfigurationError as error:
            self._alone = False
            if closed := [one.title for one in pending if not one.expands]:
                raise ConfigurationError(
                    f"{error}. Only expansions may be applied beside it, and {', '.join(closed)} is"
                    " none: stop the stage for it"
                ) from error

    def upgrade(self) -> list[Migration]:
        """Apply the pending migrations, and return them. Raises ConfigurationError."""
        if self._alone is None:
            self.admit_upgrade()
        if not (self._alone or dialect.pending(self._connection, self._folders)):
            return []
        now = SystemClock().now()
        applied = dialect.upgrade(self._connection, self._folders, now=now)
        if self._alone:
            take(self._connection, self._file, now)
        return applied

    def restored(self, as_of: float) -> Accepted:
        """Accept a backup of that age that was put back: a new generation begins with it.

        No sweep of it goes on by itself.
        """
        ((latest,),) = self.read("latest_change")
        found = self._to_be_changed()
        stopped = stop_sweeps(self.read, SystemClock().now())
        identity = self._write(found, restored(as_of, latest, self._newest_generation))
        mark_restored(self._connection, self.path, identity)
        return Accepted(identity=identity, stopped_sweeps=stopped)

    def reconciled(self, answers: Mapping[str, str]) -> None:
        """Remember which neighbours were asked, with what each of them answered."""
        self._lock.acquire()
        now, identity = SystemClock().now(), self.identity
        generation = 0 if identity is None else identity.generation
        for neighbour, answer in answers.items():
            values = (generation, neighbour, answer, now)
            self._connection.execute(statement("put_reconciled"), values)

    def unreconciled(self, neighbours: Iterable[str]) -> list[str]:
        """The neighbours that were not asked since the backup was put back."""
        identity = self.identity
        generation = 0 if identity is None else identity.generation
        rows = self._connection.execute(statement("get_reconciled"), (generation,))
        return unasked(neighbours, {neighbour: answer for neighbour, answer, _ in rows})

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
        give_up(self.read, SystemClock().now(), reasons)
        return self._write(found, change)

    def reencrypt(self, key_file: str) -> Reencrypted:
        """Bring all contents under the first key of the file, also beside a stage that is up."""
        codec = sealed_codec(key_file)

        from stage.store.sqlite.payload_keys import reencrypt  # needs the extra `encryption`

        return reencrypt(self._connection, codec)

    def wrongs(self) -> list[str]:
        """The faults of the file in words: every page is read, also beside a stage."""
        return wrongs(self._connection)

    def back_up(self, path: Path) -> Backup:
        """Copy the file, also beside a stage, and check the copy. Raises ConfigurationError.

        The list of the files of several workers is copied with the first one of them.
        """
        made = back_up(self._connection, path, SystemClock().now())
        copy_list(self.path, path)
        return made

    def read(self, name: str, *parameters: object) -> list[Row]:
        """The rows of a statement."""
        return self._connection.execute(statement(name), parameters).fetchall()

    def lost_sagas(self) -> list[Row]:
        """Saga id, neighbour and reason of each request about a saga that is still lost."""
        return unadopted(self.read)

    def _newest_generation(self, found: Identity) -> int:
        mark = self._lock.mark
        known = mark.generation if mark is not None and mark.id == found.id else 0
        return max(found.generation, known)

    def _to_be_changed(self) -> Identity:
        """The identity, under the lock of the file. Raises ConfigurationError."""
        self._lock.acquire()
        found = self.identity
        if found is None:
            raise ConfigurationError(
                f"the database {self.path} has no identity yet: run `stage db upgrade`"
            )
        return found

    def _write(self, found: Identity, change: Change) -> Identity:
        changed = change(found, SystemClock().now())
        write_identity(self._connection, changed)
        self._remember(changed)
        return changed

    def _remember(self, identity: Identity) -> None:
        number = last_number(self._connection)
        self._lock.remember(Mark(id=identity.id, generation=identity.generation, number=number))


def open_database(
    stage: StageDeclaration[Any, Any], config: Config, *, make: bool = False
) -> Database | ServerDatabase:
    """The configured database, for commands. Raises ConfigurationError."""
    if config.database.startswith(POSTGRESQL):
        return open_server_database(
            database_server(stage, config), migration_folders(stage), make=make
        )
    return Database(database_file(stage, config), migration_folders(stage), make=make)


def is_there(stage: StageDeclaration[Any, Any], config: Config) -> bool:
    """Whether the database was made; True of one on a server, which has to be asked.

    Raises ConfigurationError.
    """
    return config.database.startswith(POSTGRESQL) or is_made(database_file(stage, config).path)


def migration_folders(stage: StageDeclaration[Any, Any]) -> tuple[Path, ...]:
    """The author's folders of migrations."""
    return () if stage.migrations is None else (stage.migrations,)


def _sqlite_name(config: Config) -> str:
    if not config.database.startswith(SQLITE):
        raise ConfigurationError(f"database {config.database!r} is not known: use sqlite:///FILE")
    return config.database.removeprefix(SQLITE)
