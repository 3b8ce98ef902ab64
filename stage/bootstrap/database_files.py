"""The database of a stage as a whole, for commands: with several workers it is a file for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap.database import (
    SQLITE,
    Database,
    database_file,
    migration_folders,
    open_database,
)
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.store.migrate import Migration
from stage.store.sqlite.backup import Backup
from stage.store.sqlite.errors import refused
from stage.store.sqlite.file_set import (
    UNMADE,
    check_member,
    list_path,
    member_path,
    read_file_set,
)

if TYPE_CHECKING:
    from stage.bootstrap.server_database import ServerDatabase

Databases = Sequence["Database | ServerDatabase"]


@contextmanager
def open_all(
    stage: StageDeclaration[Any, Any], config: Config, *, make: bool = False
) -> Iterator[Databases]:
    """The configured database, and behind it those of the other workers; with `make`, a new one.

    Raises ConfigurationError, also for an error of SQLite, and where a file that the list names is
    missing or is another one.
    """
    if make and config.database.startswith(SQLITE):
        _refuse_listed(database_file(stage, config).path)
    with refused(config.database), ExitStack() as stack:
        first = open_database(stage, config, make=make)
        stack.enter_context(first)
        others = _others(stage, config) if isinstance(first, Database) else ()
        yield [first, *(stack.enter_context(each) for each in others)]


def _others(stage: StageDeclaration[Any, Any], config: Config) -> Iterator[Database]:
    file, folders = database_file(stage, config), migration_folders(stage)
    if (listed := read_file_set(file.path)) is None:
        return
    for member, known in enumerate(listed.databases):
        if known == UNMADE:
            continue  # the start that was to make it was stopped: the next one does
        check_member(file, listed, member, marked=False)
        if member:
            path = member_path(file.path, member)
            yield Database(msgspec.structs.replace(file, path=path), folders, make=False)


def _refuse_listed(path: Path) -> None:
    """Raise ConfigurationError where a list names a first file that is not there any more."""
    if not path.exists() and read_file_set(path) is not None:
        raise ConfigurationError(
            f"there is no database {path}, and {list_path(path)} lists it as that of worker 0: put"
            " it back, or move the list and the files that it names away"
        )


def upgrade_all(databases: Databases) -> list[tuple[Database | ServerDatabase, list[Migration]]]:
    """Apply what is pending in each, and return it. Raises ConfigurationError.

    An upgrade that one of them refuses is applied to none: a release needs all files alike.
    """
    for each in databases:
        with _named(each, databases):
            each.admit_upgrade()
    applied = []
    for each in databases:
        with _named(each, databases):
            applied.append((each, each.upgrade()))
    return applied


def back_up_all(databases: Databases, path: Path) -> list[Backup]:
    """Copy each to a new file, the first one to `path`, and then the list of all.

    Raises ConfigurationError, and then none of the copies is there.
    """
    if len(databases) == 1:
        return [databases[0].back_up(path)]
    paths = [member_path(path, member) for member in range(len(databases))]
    for each in (*paths, list_path(path)):
        if each.exists():
            raise ConfigurationError(f"{each} is there already: give the path of a new file")
    made: list[Backup] = []
    try:
        for database, copy in zip(databases, paths, strict=True):
            with _named(database, databases):
                made.append(database.back_up(copy))
    except BaseException:
        for backup in made:
            backup.path.unlink(missing_ok=True)
        with suppress(OSError):
            list_path(path).unlink(missing_ok=True)
        raise
    return made


@contextmanager
def _named(one: Database | ServerDatabase, of: Databases) -> Iterator[None]:
    """Say which file an error is about, where there are several."""
    try:
        yield
    except ConfigurationError as error:
        if len(of) == 1 or str(one.path) in str(error):
            raise
        raise ConfigurationError(f"{one.path}: {error}") from error
