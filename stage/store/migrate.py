"""Migrations: plain SQL files, ours and then the author's, each applied once in one transaction.

A file is named `0001_payment.sql`: a number of four digits, then words. Where databases differ
there is one file a dialect, `0001_payment.sqlite.sql` and `0001_payment.postgres.sql`; both are
the migration `0001_payment`. What was applied is recorded with its sha256 in `stage_migration`,
by owner: `stage` for ours, the name of the folder for the author's.

These functions run where the connection lives and wait for nothing else.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import Final

import msgspec

from stage.core.errors import ConfigurationError
from stage.store.sqlite.statements import statement

OWNER: Final = "stage"
DIALECT: Final = "sqlite"

_FILE: Final = re.compile(r"(?P<name>\d{4}_[a-z0-9_]+)(?:\.(?P<dialect>sqlite|postgres))?\.sql")
_BEGIN: Final = statement("begin_batch")
_COMMIT: Final = statement("commit_batch")
_ROLLBACK: Final = statement("drop_batch")


class MigrationState(StrEnum):
    """Where one migration stands."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"
    """Applied, and its file was edited since."""
    UNKNOWN = "unknown"
    """Applied, and there is no such file: the database is newer than the code."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file that can be applied."""

    owner: str
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """What the record holds of the text."""
        return sha256(self.sql.encode()).hexdigest()


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `stage db status`. `applied_at` is None for a pending one."""

    owner: str
    name: str
    state: MigrationState
    applied_at: float | None = None


def collect(folders: Sequence[Traversable] = (), *, dialect: str = DIALECT) -> list[Migration]:
    """All migrations in the order in which they are applied: ours, then folder by folder.

    Raises ConfigurationError for a folder or a file that cannot be used.
    """
    found = _folder(OWNER, resources.files("stage.store.sqlite").joinpath("migrations"), dialect)
    owners = {OWNER}
    for folder in folders:
        if not folder.is_dir():
            raise ConfigurationError(
                f"there is no folder of migrations {folder}: create it, or leave `migrations` out"
            )
        owner = folder.name
        number = 2
        while owner in owners:
            owner, number = f"{folder.name}-{number}", number + 1
        owners.add(owner)
        found += _folder(owner, folder, dialect)
    return found


def _folder(owner: str, folder: Traversable, dialect: str) -> list[Migration]:
    chosen: dict[str, tuple[str, Traversable]] = {}
    names: set[str] = set()
    for file in folder.iterdir():
        if not file.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ConfigurationError(
                f"the migration {owner}/{file.name} is misnamed: call it like 0001_payment.sql,"
                " or 0001_payment.sqlite.sql for one database"
            )
        name, variant = match["name"], match["dialect"] or ""
        names.add(name)
        if variant not in ("", dialect):
            continue
        if name in chosen:
            raise ConfigurationError(
                f"the migration {owner}/{name} is there both for all databases and for {dialect}:"
                " keep one of the two files"
            )
        chosen[name] = (variant, file)
    if missing := sorted(names - chosen.keys()):
        raise ConfigurationError(
            f"the migration {owner}/{missing[0]} is not there for {dialect}:"
            f" add {missing[0]}.{dialect}.sql"
        )
    _check_numbers(owner, sorted(chosen))
    return [
        Migration(owner=owner, name=name, sql=file.read_text(encoding="utf-8"))
        for name, (_, file) in sorted(chosen.items())
    ]


def _check_numbers(owner: str, names: Sequence[str]) -> None:
    for before, after in pairwise(names):
        if before[:4] == after[:4]:
            raise ConfigurationError(
                f"two migrations of {owner} have the number {after[:4]}: {before} and {after};"
                " renumber the newer one"
            )


def status(
    connection: sqlite3.Connection, folders: Sequence[Traversable] = ()
) -> list[MigrationStatus]:
    """All migrations with their state, those known first. Writes nothing."""
    return _compare(_applied(connection), collect(folders))


def sql(connection: sqlite3.Connection, folders: Sequence[Traversable] = ()) -> str:
    """The text of all pending migrations, for those who apply them by hand."""
    pending = _pending(_applied(connection), collect(folders))
    return "\n".join(
        f"-- {migration.owner}/{migration.name}\n{migration.sql.rstrip()}\n"
        for migration in pending
    )


def check(connection: sqlite3.Connection, folders: Sequence[Traversable] = ()) -> None:
    """Raises ConfigurationError unless all is applied as it stands."""
    if pending := _pending(_applied(connection), collect(folders)):
        names = ", ".join(f"{migration.owner}/{migration.name}" for migration in pending)
        raise ConfigurationError(f"migrations are pending: {names}. Run `stage db upgrade`")


def upgrade(
    connection: sqlite3.Connection, folders: Sequence[Traversable] = (), *, now: float
) -> list[Migration]:
    """Apply what is pending, in order; what was applied. `now` is recorded, in epoch seconds.

    The connection must be in autocommit (isolation_level None). Raises ConfigurationError, and
    what was applied before the failing file stays applied.
    """
    known = collect(folders)
    connection.execute(statement("create_migrations"))
    pending = _pending(_applied(connection), known)
    for migration in pending:
        _apply(connection, migration, now)
    return pending


def apply_all(connection: sqlite3.Connection, folders: Sequence[Traversable]) -> None:
    """Apply the author's migrations to an empty database that keeps no record."""
    for migration in collect(folders):
        if migration.owner != OWNER:
            _run(connection, migration)


def _apply(connection: sqlite3.Connection, migration: Migration, now: float) -> None:
    connection.execute(_BEGIN)
    try:
        _run(connection, migration)
        connection.execute(
            statement("record_migration"),
            (migration.owner, migration.name, migration.sha256, now),
        )
        connection.execute(_COMMIT)
    except BaseException:
        if connection.in_transaction:
            connection.execute(_ROLLBACK)
        raise


def _run(connection: sqlite3.Connection, migration: Migration) -> None:
    """Run the statements of one file within the open transaction."""
    began = connection.in_transaction
    for text in _split(migration.sql):
        try:
            connection.execute(text)
        except sqlite3.Error as error:
            raise ConfigurationError(
                f"the migration {migration.owner}/{migration.name} failed: {error};"
                f" nothing of it was applied. Mend the file: {text.strip()[:200]}"
            ) from error
        if connection.in_transaction != began:
            raise ConfigurationError(
                f"the migration {migration.owner}/{migration.name} begins or ends a transaction:"
                " take BEGIN and COMMIT out, each file runs in one anyway"
            )


def _split(script: str) -> list[str]:
    """The statements of a script. `executescript` would commit what is open."""
    statements: list[str] = []
    part = ""
    for piece in re.split(r"(?<=;)", script):
        part += piece
        if sqlite3.complete_statement(part):
            statements.append(part)
            part = ""
    if _says_something(part):
        statements.append(part)
    return [text for text in statements if _says_something(text)]


def _says_something(text: str) -> bool:
    return bool(re.sub(r"--[^\n]*|/\*.*?\*/|[\s;]", "", text, flags=re.DOTALL))


def _applied(connection: sqlite3.Connection) -> dict[tuple[str, str], tuple[str, float]]:
    (there,) = connection.execute(statement("has_migrations")).fetchone()
    if not there:
        return {}
    rows = connection.execute(statement("applied_migrations")).fetchall()
    return {(owner, name): (digest, at) for owner, name, digest, at in rows}


def _compare(
    applied: dict[tuple[str, str], tuple[str, float]], known: Sequence[Migration]
) -> list[MigrationStatus]:
    lines: list[MigrationStatus] = []
    for migration in known:
        record = applied.get((migration.owner, migration.name))
        if record is None:
            state, at = MigrationState.PENDING, None
        else:
            digest, at = record
            same = digest == migration.sha256
            state = MigrationState.APPLIED if same else MigrationState.CHANGED
        lines.append(
            MigrationStatus(owner=migration.owner, name=migration.name, state=state, applied_at=at)
        )
    there = {(migration.owner, migration.name) for migration in known}
    for (owner, name), (_, at) in applied.items():
        if (owner, name) not in there:
            unknown = MigrationState.UNKNOWN
            lines.append(MigrationStatus(owner=owner, name=name, state=unknown, applied_at=at))
    return lines


def _pending(
    applied: dict[tuple[str, str], tuple[str, float]], known: Sequence[Migration]
) -> list[Migration]:
    """What is to be applied. Raises ConfigurationError for what is changed or unknown."""
    states = _compare(applied, known)
    for line in states:
        if line.state is MigrationState.UNKNOWN:
            raise ConfigurationError(
                f"the database has the migration {line.owner}/{line.name}, which this version"
                " does not know: start the version that applied it, or a newer one, or give back"
                " the folder of migrations it came from"
            )
        if line.state is MigrationState.CHANGED:
            raise ConfigurationError(
                f"the migration {line.owner}/{line.name} was edited after it was applied:"
                " restore the file, and put the change into a new one"
            )
    todo = {(line.owner, line.name) for line in states if line.state is MigrationState.PENDING}
    return [migration for migration in known if (migration.owner, migration.name) in todo]
