"""The files of a stage that several workers serve: their list, which lies beside the first one.

The file `stage.db` has the sagas of worker 0 and `stage.1.db` those of worker 1. The list, with
`.workers` behind the name of the first one, has the identity of each and the numbers of workers
that there were. A saga is at home where those numbers say (`engine.workers.placement`), so that one
file that is missing, or another one in its place, would make the stage say of sagas that they never
were: then nothing is served.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.resources.abc import Traversable
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec

from stage.core.errors import ConfigurationError
from stage.ports.file_errors import in_words
from stage.ports.identity import Identity
from stage.ports.store import Row
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.identity import (
    WORKERS_MAX,
    DatabaseFile,
    is_made,
    last_number,
    missing,
    numbers_of_workers,
    read_identity,
    read_worker,
    record_number_of_workers,
    refuse_foreign,
    refuse_owner,
    refuse_removed,
    refuse_worker,
    write_identity,
    write_worker,
)
from stage.store.sqlite.left_log import refuse_foreign_log, refuse_foreign_log_beside
from stage.store.sqlite.lock import LOOK_SECONDS, DatabaseInUse, FileLock, read_mark
from stage.store.sqlite.making import make_database, sync
from stage.store.sqlite.statements import statement

LIST: Final = ".workers"
"""Added to the name of the first file."""
UNMADE: Final = ""
"""In place of an identity: a file is listed before it is made, so that a crash leaves no riddle."""
FORMAT: Final = 1


class FileSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of a list. `databases` are the identities of the files, in order.

    `sizes` are the numbers of workers that there were, the present one last.
    """

    format: int = FORMAT
    sizes: tuple[int, ...]
    databases: tuple[str, ...]


def member_path(path: Path, member: int) -> Path:
    """The file of a worker. `path` is that of the first one."""
    return path if member == 0 else path.with_name(f"{path.stem}.{member}{path.suffix}")


def list_path(path: Path) -> Path:
    """Where the list of the files lies. `path` is the first one of them."""
    return path.with_name(path.name + LIST)


def read_file_set(path: Path) -> FileSet | None:
    """The list beside the file; None where there is none. Raises ConfigurationError."""
    listed = list_path(path)
    try:
        found = msgspec.json.decode(listed.read_bytes(), type=FileSet)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"the list {listed} of the files of the workers cannot be read ({error}): put it back"
            " from a backup"
        ) from error
    if found.format != FORMAT or not found.sizes or len(found.databases) < max(found.sizes):
        raise ConfigurationError(
            f"the list {listed} of the files of the workers is of another release, or not whole:"
            " put it back from a backup"
        )
    return found


def mark_restored(connection: sqlite3.Connection, path: Path, identity: Identity) -> None:
    """Mark a backup of the first file that is older than its list: it was alone then."""
    files = read_file_set(path)
    if files is None or files.databases[0] != identity.id:
        return
    if read_worker(connection) is None:
        write_worker(connection, 0)


def copy_list(path: Path, copy: Path) -> None:
    """Copy the list beside a backup of the first file, where there is one.

    Raises ConfigurationError.
    """
    if (files := read_file_set(path)) is not None:
        _write(copy, files)


def check_member(file: DatabaseFile, files: FileSet, member: int, *, marked: bool = True) -> None:
    """Raise ConfigurationError unless the file of a worker is there, and is the one listed."""
    of_member = _member(file, member)
    if not is_made(of_member.path):
        raise ConfigurationError(
            f"the file {of_member.path} of worker {member} is missing, and"
            f" {list_path(file.path)} lists it: put it back, or a backup of it with `stage db"
            " restored`. Nothing is served without it, because its sagas would be begun anew"
        )
    with _opened(of_member) as connection:
        if marked:
            refuse_worker(connection, of_member)
        found = read_identity(connection)
        numbers = numbers_of_workers(connection)
    if found is None or found.id != files.databases[member]:
        raise ConfigurationError(
            f"the file {of_member.path} is another database than that of worker {member} in"
            f" {list_path(file.path)}: put the right one back"
        )
    if former := sorted(numbers - set(files.sizes)):
        sizes = ", ".join(map(str, (*former, *files.sizes)))
        raise ConfigurationError(
            f"the list {list_path(file.path)} of the files of the workers is an older one: it does"
            f" not name the number {former[0]}, by which sagas in {of_member.path} have their"
            f' homes. Put the newest list back; where that is lost, let "sizes" in it be [{sizes}]'
        )


def check_listed(file: DatabaseFile, sizes: tuple[int, ...], member: int) -> None:
    """Raise ConfigurationError unless a worker serves its file by the list as it is now.

    Called under the lock of its file: nobody can change the list while that is held. Before it was
    taken another start may have changed it, and begun sagas where these `sizes` do not look. The
    file then keeps the numbers itself, before a saga is begun by the last of them, so that an older
    list beside it is known by what it lacks.
    """
    files = read_file_set(file.path)
    if files is None or files.sizes != sizes:
        raise ConfigurationError(
            f"the list {list_path(file.path)} of the files of the workers was changed after this"
            " stage was started: restart it"
        )
    check_member(file, files, member)
    with _opened(_member(file, member)) as connection:
        for number in sorted(set(sizes) - numbers_of_workers(connection)):
            record_number_of_workers(connection, number, file.now())
    _renew_pauses(file, files, member)


def prepare_files(file: DatabaseFile, folders: Sequence[Traversable], workers: int) -> FileSet:
    """The list for so many workers, with every file that it names. Raises ConfigurationError.

    A missing file is made. A single file becomes that of worker 0. With another number of
    workers than before, each saga stays where it is, and new ones go by the new number; nobody may
    serve any of the files then.
    """
    found = read_file_set(file.path)
    while found is None or found.sizes[-1] != workers or UNMADE in found.databases:
        with _all_locked(file, found) as locks:
            now = read_file_set(file.path)
            if now == found:
                found = _changed(file, folders, workers, now, locks)
                break
        found = now  # another start has changed it meanwhile, and there may be more to lock
    _refuse_unlisted(file, len(found.databases))
    for member in range(len(found.databases)):
        check_member(file, found, member)
    return found


def _changed(
    file: DatabaseFile,
    folders: Sequence[Traversable],
    workers: int,
    found: FileSet | None,
    locks: Sequence[FileLock],
) -> FileSet:
    if found is None:
        found = _first(file, workers)
    else:
        _refuse_unlisted(file, len(found.databases))
        for member, database in enumerate(found.databases):
            if database != UNMADE:
                check_member(file, found, member, marked=False)  # a crash may have left it so
        sizes = (*(size for size in found.sizes if size != workers), workers)
        more = max(0, workers - len(found.databases))
        found = FileSet(sizes=sizes, databases=found.databases + (UNMADE,) * more)
    _write(file.path, found)
    made = list(found.databases)
    born_at: float | None = None
    pauses: list[Row] = []
    for member, database in enumerate(made):
        of_member = _member(file, member)
        if database == UNMADE and not is_made(of_member.path):
            with _lock_of(of_member, locks) as lock:
                refuse_removed(of_member.path, lock.mark)
                make_database(of_member, folders, lock)
        identity = _adopted(of_member, born_at, pauses)
        pauses = pauses or _pauses_of(of_member)
        made[member] = identity.id
        born_at = identity.born_at if born_at is None else min(born_at, identity.born_at)
    found = msgspec.structs.replace(found, databases=tuple(made))
    _write(file.path, found)
    return found


def _first(file: DatabaseFile, workers: int) -> FileSet:
    """The list where there was none. Raises ConfigurationError."""
    _refuse_unlisted(file, 1)
    if not is_made(file.path):
        if file.must_exist:
            raise missing(file.path)
        return FileSet(sizes=(workers,), databases=(UNMADE,) * workers)
    with _opened(file) as connection:
        refuse_worker(connection, file)  # a copy of one without its list
        found = read_identity(connection)
    known = UNMADE if found is None else found.id
    return FileSet(sizes=(1, workers), databases=(known, *(UNMADE,) * (workers - 1)))


def _refuse_unlisted(file: DatabaseFile, listed: int) -> None:
    """Raise ConfigurationError for a file behind those that are listed.

    The list is written before a file is made. So it is an older one, or is gone, and the sagas of
    that file would be begun anew.
    """
    for member in range(listed, WORKERS_MAX):
        if (left := member_path(file.path, member)).exists():
            raise ConfigurationError(
                f"{left} is there, and no list {list_path(file.path)} of the files of workers that"
                f" names it: put the newest list back, or move {left.name} away where it belongs"
                " to nothing"
            )


def _adopted(file: DatabaseFile, born_at: float | None, pauses: Sequence[Row]) -> Identity:
    """Mark a file as that of its worker; its identity.

    A new one is as old as the first: what it lacks, the others were asked for. It has the pauses
    of the first, so that its worker holds what an operator has paused.
    """
    assert file.worker is not None
    with _opened(file) as connection:
        found = read_identity(connection)
        if found is None:
            raise ConfigurationError(
                f"the database {file.path} has no identity yet: run `stage db upgrade`"
            )
        if read_worker(connection) is None:
            for pause in pauses:
                connection.execute(statement("put_pause"), pause)
            write_worker(connection, file.worker)
            if born_at is not None and born_at < found.born_at:
                found = msgspec.structs.replace(found, born_at=born_at)
                write_identity(connection, found)
        refuse_worker(connection, file)
        return found


def _pauses_of(file: DatabaseFile) -> list[Row]:
    """The pauses in a file; none in one of a release that had none."""
    with _opened(file) as connection:
        if connection.execute(statement("has_pauses")).fetchone() is None:
            return []
        return connection.execute(statement("get_pauses")).fetchall()


def _renew_pauses(file: DatabaseFile, files: FileSet, member: int) -> None:
    """Give a file the pauses of the others, which all workers have alike, before it is served.

    A worker that was away has heard of none that was put or ended since: it would send to a peer
    that an operator has paused, or hold one that was resumed. The newest word on each target
    counts. A file that was restored has words as old as its backup, and no say with them beside
    files that were restored before it, or never; the words that it heard since count as any other.
    Called under the lock of the file.
    """
    found = [(_restored_at(file, files, each), each) for each in range(len(files.databases))]
    if found[member][0] is None:
        return
    first = min(at for at, _ in found if at is not None)
    words = [
        row
        for at, each in found
        if at is not None
        for row in _pauses_of(_member(file, each))
        if at == first or row[2] > at
    ]
    pauses = sorted({row[:2]: row for row in sorted(words, key=itemgetter(2))}.values())
    of_member = _member(file, member)
    with _opened(of_member) as connection:
        if connection.execute(statement("has_pauses")).fetchone() is None:
            return
        if pauses == connection.execute(statement("get_pauses")).fetchall():
            return
        connection.execute(statement("begin_batch"))
        connection.execute(statement("drop_pauses"))
        connection.executemany(statement("put_pause"), pauses)
        connection.execute(statement("commit_batch"))


def _restored_at(file: DatabaseFile, files: FileSet, member: int) -> float | None:
    """When the file of a worker was restored; 0 for never, and None for one that says nothing.

    That is one that is not there, or cannot be opened, or an older copy that nobody has accepted.
    """
    of_member = _member(file, member)
    if not is_made(of_member.path):
        return None
    mark = read_mark(of_member.path)  # before the number: its worker may be up
    try:
        with _opened(of_member) as connection:
            found, number = read_identity(connection), last_number(connection)
    except ConfigurationError:
        return None  # its own worker says so, and this one serves
    if found is None or found.id != files.databases[member]:
        return None
    if mark is not None and (found.generation, number) < (mark.generation, mark.number):
        return None
    return found.restored_at or 0.0


def _member(file: DatabaseFile, member: int) -> DatabaseFile:
    path = member_path(file.path, member)
    return msgspec.structs.replace(file, path=path, worker=member)


@contextmanager
def _opened(file: DatabaseFile) -> Iterator[sqlite3.Connection]:
    """A connection to the database of this stage. Raises ConfigurationError."""
    refuse_foreign_log_beside(file.path)
    try:
        with closing(sqlite3.connect(file.path, isolation_level=None)) as connection:
            for name in ("busy_timeout", "no_checkpoint"):
                connection.execute(statement(name)).fetchall()
            refuse_foreign(connection, file)
            refuse_owner(read_identity(connection), file)
            yield connection
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"the database {file.path} cannot be opened: {unavailable(error) or error}"
        ) from error


@contextmanager
def _all_locked(file: DatabaseFile, found: FileSet | None) -> Iterator[list[FileLock]]:
    """Hold every file that there is, so that nobody serves by the former list."""
    members = range(1 if found is None else len(found.databases))
    until = time.monotonic() + file.lock_wait_seconds
    with ExitStack() as stack:
        locks = []
        for member in members:
            path = member_path(file.path, member)
            lock = FileLock(path)
            _acquire(lock, file, until)
            stack.callback(lock.release)
            refuse_foreign_log(path, lock.mark)
            locks.append(lock)
        yield locks


def _acquire(lock: FileLock, file: DatabaseFile, until: float) -> None:
    waiting = False
    while True:
        try:
            return lock.acquire()
        except DatabaseInUse as error:
            if time.monotonic() >= until:
                raise
            if not waiting:
                file.waiting(str(error))
                waiting = True
            time.sleep(LOOK_SECONDS)


@contextmanager
def _lock_of(file: DatabaseFile, locks: Sequence[FileLock]) -> Iterator[FileLock]:
    """The lock of a file: one that is held, or one that is taken for now."""
    assert file.worker is not None
    if file.worker < len(locks):
        yield locks[file.worker]
        return
    lock = FileLock(file.path)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def _write(path: Path, found: FileSet) -> None:
    """Write the list, durably: the former one or this one is there at any instant."""
    listed = list_path(path)
    unfinished = listed.with_name(listed.name + ".making")
    try:
        unfinished.write_bytes(msgspec.json.encode(found) + b"\n")
        unfinished.chmod(0o600)
        sync(unfinished)
        os.replace(unfinished, listed)
        sync(listed.parent)
    except OSError as error:
        raise ConfigurationError(
            f"the list {listed} of the files of the workers cannot be written: {in_words(error)}"
        ) from error
