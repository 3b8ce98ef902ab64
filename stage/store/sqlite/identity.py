"""Whose a SQLite file is, and whether it is still the one that this process opened (rule 33).

Three things can be put in the place of a database: nothing, another one, or an older copy of it.
The identity in the file tells the first two apart. An older copy is recognised by the numbers of
its batches, which only grow: the highest one is remembered here while the process runs, and in the
lock file beside the database from one process to the next (`Mark`).
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.ports.file_errors import in_words
from stage.ports.identity import Identity
from stage.store import identity as whose
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.statements import statement

_WORKER: Final = 0x53544700
"""The application id of the file of worker 0 in its head, and so on: one of an author's stays."""
WORKERS_MAX: Final = 256
_HEADER: Final = b"SQLite format 3\x00"


class DatabaseFile(msgspec.Struct, frozen=True, kw_only=True):
    """The file that is asked for: where it is, whose it has to be, and whether it may be made."""

    path: Path
    stage: str = ""
    """Empty: that of any stage."""
    release: str = ""
    must_exist: bool = False
    worker: int | None = None
    """The worker whose file it is, of those that serve the stage; None: it is alone."""
    workers: int = 1
    """How many processes serve the stage."""
    former: tuple[str, ...] = ()
    """Names that the stage had before: a database keeps the one that it was made under."""
    lock_wait_seconds: float = 0.0
    """How long to wait at start for the process that has the file."""
    check: Callable[[], None] = lambda: None
    """Called under the lock, before the file is served. Raises ConfigurationError."""
    waiting: Callable[[str], None] = lambda reason: None
    """Notified once, with the reason, when the wait begins."""
    now: Callable[[], float] = time.time
    """The instant at which a database that is made was born."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """How far a database had come: what the lock file holds of it."""

    id: str
    generation: int
    number: int
    """The highest number of a batch that was durable."""
    base: int = 0
    """A number up to which the file holds all by itself, whatever becomes of its log."""

    def line(self) -> str:
        """As it stands in the lock file: always as long, so that one write replaces it."""
        return f"{self.id} {self.generation:010} {self.number:019} {self.base:019}"


_MARK: Final = re.compile(r"([0-9a-f]{32}) ([0-9]{10}) ([0-9]{19})(?: ([0-9]{19}))?")


def parse_mark(text: str) -> Mark | None:
    """The mark in the text of a lock file; None where there is none."""
    found = _MARK.search(text)
    if found is None:
        return None
    identity, generation, number, base = found.groups()
    return Mark(id=identity, generation=int(generation), number=int(number), base=int(base or 0))


def is_made(path: Path) -> bool:
    """Whether there is a file. Raises ConfigurationError for one that holds nothing.

    An empty file is what a full disk, a wrong mount or a broken copy leaves of a database. A stage
    that was stopped while it made one leaves none: see making.py.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_HEADER))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigurationError(f"the database cannot be opened: {in_words(error)}") from error
    if not start:
        raise ConfigurationError(
            f"the database {path} is an empty file: put the database back, or make a new one with"
            " `stage db init`"
        )
    return True


def missing(path: Path) -> ConfigurationError:
    """The error where no file is there and none may be made."""
    return ConfigurationError(
        f"there is no database {path}: name another by --database, or by --config the settings of"
        " the stage, or make it with `stage db init`"
    )


def refuse_removed(path: Path, mark: Mark | None) -> None:
    """Raise ConfigurationError for a file that is not there, though it was served."""
    if mark is not None:
        raise ConfigurationError(
            f"the database {path} was removed: {mark.number} batches were written to it. Put"
            " it back, or make a new one with `stage db init`"
        )


def read_identity(connection: sqlite3.Connection) -> Identity | None:
    """The identity, or None where the file has none. Raises StoreUnavailable."""
    try:
        row = connection.execute(statement("get_identity")).fetchone()
    except sqlite3.Error as error:
        if (away := unavailable(error)) is not None:
            raise away from error
        return None  # there is no such table
    return None if row is None else whose.identity_of(row)


def write_identity(connection: sqlite3.Connection, identity: Identity) -> None:
    """Write it. Raises sqlite3.Error."""
    connection.execute(statement("put_identity"), whose.values(identity))


def refuse_foreign(connection: sqlite3.Connection, file: DatabaseFile) -> None:
    """Raise ConfigurationError for a file that holds something else than a stage's database."""
    (objects,) = connection.execute(statement("count_objects")).fetchone()
    if not objects:
        raise ConfigurationError(
            f"{file.path} holds no table: put the database back, or remove this file and make a new"
            " one with `stage db init`"
        )
    (migrated,) = connection.execute(statement("has_migrations")).fetchone()
    if not migrated:
        raise ConfigurationError(f"{file.path} is not the database of a stage: give another path")


def refuse_owner(found: Identity | None, file: DatabaseFile) -> None:
    """Raise ConfigurationError for the database of another stage."""
    whose.refuse_owner(found, file, place=file.path, fix="a path of its own")


def refuse_worker(connection: sqlite3.Connection, file: DatabaseFile) -> None:
    """Raise ConfigurationError unless it is the file of that worker, or alone as it has to be.

    A file of workers is marked in its head, so that a copy of it is so too: served alone it would
    lack the sagas of the others, and say of them that they never were.
    """
    found = read_worker(connection)
    if found is not None and file.worker is None:
        raise ConfigurationError(
            f"{file.path} is the file of worker {found} of several, and is not used alone: `stage"
            " serve` serves all that the list beside the first one names. To reconcile, serve them"
            " and use the console"
        )
    if found != file.worker:
        kind = "no file of a worker" if found is None else f"the file of worker {found}"
        raise ConfigurationError(
            f"{file.path} has to be the file of worker {file.worker}, and is {kind}: put the right"
            " one back. A backup of the first one from before there were workers becomes so with"
            " `stage db restored`"
        )


def read_worker(connection: sqlite3.Connection) -> int | None:
    """The worker whose file it is; None for a file that is alone."""
    (found,) = connection.execute(statement("get_application_id")).fetchone()
    worker = int(found) - _WORKER
    return worker if 0 <= worker < WORKERS_MAX else None


def write_worker(connection: sqlite3.Connection, worker: int) -> None:
    """Mark the file as that of a worker. Raises sqlite3.Error."""
    connection.execute(f"PRAGMA application_id = {_WORKER + worker:d}")  # it takes no parameter


def numbers_of_workers(connection: sqlite3.Connection) -> frozenset[int]:
    """The numbers of workers that the file was served by: sagas were begun at the homes of each."""
    return frozenset(number for (number,) in connection.execute(statement("numbers_of_workers")))


def record_number_of_workers(connection: sqlite3.Connection, number: int, now: float) -> None:
    """So many serve the file from now on, and its copies know it. Raises sqlite3.Error."""
    connection.execute(statement("record_number_of_workers"), (number, now))


def take(connection: sqlite3.Connection, file: DatabaseFile, now: float) -> Identity:
    """The identity of an upgraded database, which gets one if it has none.

    Its release is written down where the file can be written to now.
    """
    found = read_identity(connection)
    if found is None:
        (born_at,) = connection.execute(statement("first_migrated")).fetchone()
        found = whose.new_identity(file, now, born_at)
        write_identity(connection, found)
        return found
    named = whose.named(found, file)
    if named != found:
        try:
            write_identity(connection, named)
        except sqlite3.Error as error:
            if unavailable(error) is None:
                raise
            return found  # it can be read and not written to; the writer waits for that
    return named


class Timeline:
    """The identity that was opened and how far it came, against which the file is checked."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.identity: Identity | None = None
        self.number = 0
        """The highest number of a batch that is certainly durable."""
        self.base = 0
        """See `Mark`."""
        self._log: tuple[bytes, int] | None = None
        """At the last look: the head of the log, and a number that was durable before."""
        self.version = 0
        """SQLite's data version of the connection that writes, when it was last checked."""

    @property
    def mark(self) -> Mark | None:
        """The content of the lock file."""
        if self.identity is None:
            return None
        of = self.identity
        return Mark(id=of.id, generation=of.generation, number=self.number, base=self.base)

    def opened(
        self,
        connection: sqlite3.Connection,
        identity: Identity,
        left: Mark | None,
        *,
        without_log: bool = False,
    ) -> None:
        """Begin with this identity. Raises ConfigurationError for one that the mark contradicts.

        `without_log`: nothing stood in a log when the file was opened.
        """
        number = last_number(connection)
        self.version = _data_version(connection)
        if left is not None and left.id != identity.id:
            raise ConfigurationError(
                f"{self._path} is not the database that was served from there: put that one back,"
                " or accept this one with `stage db restored --as-of TIME`"
            )
        if left is not None and (identity.generation, number) < (left.generation, left.number):
            raise ConfigurationError(
                f"{self._path} is an older copy of its database: {left.number - number} batches are"
                " missing. Put the newer one back, or accept this one with"
                " `stage db restored --as-of TIME`"
            )
        self.identity, self.number = identity, number
        self.base = number if without_log else (0 if left is None else left.base)

    def look_at_log(self, head: Callable[[], bytes]) -> None:
        """Learn from the `head` of the log how far the file has come by itself.

        A log is begun anew once all of it stands in the file, so that its first batch is behind
        all that were durable when the former log was still there.
        """
        number = self.number  # before the head: the writer goes on
        found = head()
        if not found:
            return  # none is begun yet, or somebody has removed it
        if self._log is not None and self._log[0] != found:
            self.base = max(self.base, self._log[1])
        self._log = (found, number)

    def written_over(self) -> None:
        """Another program has written a copy into the file: the log beside it is foreign to that.

        The mark says so, for the next start, by a number that no copy has.
        """
        self.base = self.number

    def closed(self, *, without_log: bool) -> None:
        """The file was closed. The last connection copies the log back, and removes it."""
        if without_log:
            self.base = self.number

    def check(self, connection: sqlite3.Connection) -> None:
        """As `compare`, on the connection that writes."""
        self.compare(connection)
        self.version = _data_version(connection)

    def compare(self, connection: sqlite3.Connection) -> None:
        """Raise StoreUnavailable unless the connection reads this identity and no older copy."""
        known, number = self.identity, self.number  # before the file: the writer goes on
        found = read_identity(connection)
        assert known is not None
        if found is None or found.id != known.id:
            raise StoreUnavailable(
                f"another database stands at {self._path}: put back the one that was opened, or"
                " restart the stage to use this one"
            )
        if (found.generation, last_number(connection)) < (known.generation, number):
            raise StoreUnavailable(
                f"an older copy of the database stands at {self._path}: put back the newer one, or"
                " stop the stage and accept the copy with `stage db restored --as-of TIME`"
            )
        if found.generation != known.generation:
            raise StoreUnavailable(
                f"the database {self._path} was restored under the running stage: restart it"
            )

    def check_foreign_writes(self, connection: sqlite3.Connection) -> None:
        """As `check`, where another connection has written since."""
        if _data_version(connection) != self.version:
            self.check(connection)


def last_number(connection: sqlite3.Connection) -> int:
    """The number of the last batch that is durable."""
    (number,) = connection.execute(statement("last_batch")).fetchone()
    return int(number)


def _data_version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute(statement("data_version")).fetchone()
    return int(version)
