"""Migrations on SQLite: its dialect, and the functions for a connection that is at hand.

A connection must be in autocommit (isolation_level None). Everything here blocks.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from stage.core.errors import ConfigurationError
from stage.ports.stage_tables import is_stage_table
from stage.store import migrate
from stage.store.drive import complete
from stage.store.migrate import OWNER, Applied, Migration, MigrationStatus
from stage.store.sqlite.errors import unavailable
from stage.store.sqlite.statements import statement
from stage.store.sqlite.table_guard import guarded

NAME: Final = "sqlite"

_BEGIN: Final = statement("begin_batch")
_COMMIT: Final = statement("commit_batch")
_ROLLBACK: Final = statement("drop_batch")


def status(
    connection: sqlite3.Connection, folders: Sequence[Traversable] = ()
) -> list[MigrationStatus]:
    """See store.migrate."""
    return complete(migrate.status(SqliteDialect(connection), folders))


def pending_sql(connection: sqlite3.Connection, folders: Sequence[Traversable] = ()) -> str:
    """See store.migrate."""
    return complete(migrate.pending_sql(SqliteDialect(connection), folders))


def check(connection: sqlite3.Connection, folders: Sequence[Traversable] = ()) -> None:
    """See store.migrate."""
    complete(migrate.check(SqliteDialect(connection), folders))


def pending(connection: sqlite3.Connection, folders: Sequence[Traversable] = ()) -> list[Migration]:
    """See store.migrate."""
    return complete(migrate.pending(SqliteDialect(connection), folders))


def upgrade(
    connection: sqlite3.Connection, folders: Sequence[Traversable] = (), *, now: float
) -> list[Migration]:
    """See store.migrate."""
    return complete(migrate.upgrade(SqliteDialect(connection), folders, now=now))


def upgrade_now(
    connection: sqlite3.Connection, folders: Sequence[Traversable] = ()
) -> list[Migration]:
    """`upgrade`, as of now by the wall clock."""
    return upgrade(connection, folders, now=time.time())


def apply_authored(connection: sqlite3.Connection, folders: Sequence[Traversable]) -> None:
    """Apply the author's migrations to an empty database in memory, which keeps no record."""
    for migration in migrate.authored(folders, NAME):
        _run(connection, migration)


class SqliteDialect:
    """store.migrate.Dialect on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def name(self) -> str:
        """See store.migrate.Dialect."""
        return NAME

    @property
    def ours(self) -> Traversable:
        """See store.migrate.Dialect."""
        return resources.files("stage.store.sqlite").joinpath("migrations")

    async def applied(self) -> list[Applied]:
        """See store.migrate.Dialect."""
        (found,) = self._connection.execute(statement("has_migrations")).fetchone()
        if not found:
            return []
        return [
            Applied(owner=owner, name=name, sha256=digest, applied_at=at)
            for owner, name, digest, at in self._connection.execute(statement("applied_migrations"))
        ]

    async def prepare(self) -> None:
        """See store.migrate.Dialect."""
        self._connection.execute(statement("create_migrations"))

    async def apply(self, migration: Migration, now: float) -> None:
        """See store.migrate.Dialect."""
        connection, key = self._connection, (migration.owner, migration.name)
        with _foreign_keys_off(connection):
            connection.execute(_BEGIN)
            try:
                if connection.execute(statement("has_migration"), key).fetchone() is None:
                    before = _orphans(connection)
                    _run(connection, migration)
                    connection.execute(statement("record_migration"), (*key, migration.sha256, now))
                    _check_references(migration, _orphans(connection) - before)
                connection.execute(_COMMIT)
            except BaseException:
                if connection.in_transaction:
                    connection.execute(_ROLLBACK)
                raise


def _check_references(migration: Migration, orphans: Counter[tuple[str, str]]) -> None:
    """Raises ConfigurationError where the migration left rows that refer to nothing."""
    if orphans:
        child, parent = min(orphans)
        raise ConfigurationError(
            f"the migration {migration.owner}/{migration.name} failed: {orphans.total()} rows of"
            f" {child} would refer to rows of {parent} that are not there; nothing of it was"
            " applied. Mend the file: copy every row that is referred to"
        )


@contextmanager
def _foreign_keys_off(connection: sqlite3.Connection) -> Iterator[None]:
    """Let a table be dropped and made anew without its child rows going with it.

    The setting has no effect within a transaction (sqlite.org/pragma.html#pragma_foreign_keys).
    """
    (enforced,) = connection.execute(statement("foreign_keys_enforced")).fetchone()
    connection.execute(statement("foreign_keys_off"))
    try:
        yield
    finally:
        if enforced:
            connection.execute(statement("foreign_keys"))


def _orphans(connection: sqlite3.Connection) -> Counter[tuple[str, str]]:
    """How many rows of a table refer to rows of another one that are not there."""
    rows = connection.execute(statement("foreign_key_check"))
    return Counter((child, parent) for child, _, parent, _ in rows)


def _run(connection: sqlite3.Connection, migration: Migration) -> None:
    """Run the statements of one file within the transaction that is open, if one is.

    A file of the author may not change a table of the stage.
    """
    outer, ours = connection.in_transaction, migration.owner == OWNER
    with guarded(connection, judging=not ours) as guard:
        for text in _split(migration.sql):
            guard.alters = False
            try:
                connection.execute(text)
            except sqlite3.Error as error:
                if unavailable(error) is not None:
                    raise  # a full disk, say: nothing in the file mends that
                why = guard.take_refusal() or error
                raise ConfigurationError(
                    f"the migration {migration.title} failed: {why};"
                    f" nothing of it was applied. Mend the file: {text.strip()[:200]}"
                ) from error
            if connection.in_transaction != outer:
                raise ConfigurationError(
                    f"the migration {migration.title} begins or ends a transaction:"
                    " take BEGIN and COMMIT out, each file runs in one anyway"
                )
    if not ours:
        _check_parents(connection, migration)


def _check_parents(connection: sqlite3.Connection, migration: Migration) -> None:
    """Raises ConfigurationError where rows of the author's refer to rows that the stage drops."""
    for child, parent in connection.execute(statement("tables_referred_to")):
        if is_stage_table(parent) and not is_stage_table(child):
            raise ConfigurationError(
                f"the migration {migration.title} failed: {child} refers to {parent}, a table of"
                " the stage, whose rows are dropped when they are old, and no row that is referred"
                " to can be; nothing of it was applied. Mend the file: keep the saga id without"
                " REFERENCES"
            )


def _split(script: str) -> list[str]:
    """The statements of a script. `executescript` would commit the open transaction."""
    statements: list[str] = []
    part = ""
    for piece in re.split(r"(?<=;)", script):
        part += piece
        if sqlite3.complete_statement(part):
            statements.append(part)
            part = ""
    if _has_content(part):
        statements.append(part)
    return [text for text in statements if _has_content(text)]


def _has_content(text: str) -> bool:
    return bool(re.sub(r"--[^\n]*|/\*.*?\*/|[\s;]", "", text, flags=re.DOTALL))
