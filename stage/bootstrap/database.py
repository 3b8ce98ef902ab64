"""The configured database: the store of a stage, and its migrations."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Self

from stage.authoring.declaration import StageDeclaration
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.engine.clock import SystemClock
from stage.ports.store import Store
from stage.store.memory import MemoryStore
from stage.store.migrate import Migration, MigrationStatus
from stage.store.sqlite import dialect
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.statements import statement
from stage.store.sqlite.store import SqliteStore
from stage.store.suspects import SuspectsPage
from stage.telemetry.metrics import Metrics

SQLITE = "sqlite:///"
MEMORY = ":memory:"


def make_store(
    stage: StageDeclaration[Any, Any], config: Config, metrics: Metrics | None = None
) -> Store:
    """The store that the database URL names. Raises ConfigurationError."""
    committed = None if metrics is None else metrics.committed
    name = _sqlite_name(config)
    if name == MEMORY:
        return MemoryStore(migrations=migration_folders(stage))
    return SqliteStore(Path(name), migrations=migration_folders(stage), committed=committed)


def make_suspects(config: Config) -> SuspectsPage | None:
    """The page of suspects beside the database; None for one that does not outlive the process."""
    name = _sqlite_name(config)
    return None if name == MEMORY else SuspectsPage(Path(name))


class Migrations:
    """The migrations of one SQLite file, ours and the author's: a context manager.

    To look needs no lock. To apply takes the lock of the file, so that no process serves from it
    meanwhile; expansions alone are applied beside a stage that is up, in its pauses.
    """

    def __init__(self, path: Path, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._lock = FileLock(path)
        self._path = path

    def __enter__(self) -> Self:
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        for name in ("busy_timeout", "no_checkpoint"):
            self._connection.execute(statement(name)).fetchall()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._lock.release()

    def status(self) -> list[MigrationStatus]:
        """Every migration with its state."""
        return dialect.status(self._connection, self._folders)

    def sql(self) -> str:
        """The text of all that are pending."""
        return dialect.pending_sql(self._connection, self._folders)

    def upgrade(self) -> list[Migration]:
        """Apply what is pending; what was applied. Raises ConfigurationError."""
        pending = dialect.pending(self._connection, self._folders)
        try:
            self._lock.acquire()
        except ConfigurationError as error:
            closed = [f"{one.owner}/{one.name}" for one in pending if not one.expands]
            if closed:
                raise ConfigurationError(
                    f"{error}. Only expansions may be applied beside it, and {', '.join(closed)}"
                    " is none: stop the stage for it"
                ) from error
        return dialect.upgrade(self._connection, self._folders, now=SystemClock().now())


def open_migrations(stage: StageDeclaration[Any, Any], config: Config) -> Migrations:
    """The migrations of the configured database. Raises ConfigurationError."""
    name = _sqlite_name(config)
    if name == MEMORY:
        raise ConfigurationError(f"database {config.database!r} is new at each start: name a file")
    return Migrations(Path(name).absolute(), migration_folders(stage))


def migration_folders(stage: StageDeclaration[Any, Any]) -> tuple[Path, ...]:
    """The author's folders of migrations."""
    return () if stage.migrations is None else (stage.migrations,)


def _sqlite_name(config: Config) -> str:
    if not config.database.startswith(SQLITE):
        raise ConfigurationError(f"database {config.database!r} is not known: use sqlite:///FILE")
    return config.database.removeprefix(SQLITE)
