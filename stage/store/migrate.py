"""Migrations: plain SQL files, ours and then the author's, each applied once in one transaction.

A file is named `0001_payment.sql`: a number of four digits, then words. Where databases differ, a
file may be for one of them, `0001_payment.sqlite.sql` or `0001_payment.postgres.sql`: all are the
migration `0001_payment`. A database takes its own file, and the common one where it has none. Each
one applied is recorded with its sha256 in `stage_migration`, by owner: `stage` for ours, the name
of the folder for the author's.

`0003_iban.expand.sql` only adds: the release before it runs on its schema too, and it may be
applied while a stage is up. Any other file, with the word `contract` or without one, is applied
while the stage stands still, and a release that does not know it refuses the database (decision
0021). The word is part of the name, so that it is recorded.

Order, names and states are decided here; a `Dialect` knows the database. The functions with a
dialect await nothing else: where it blocks instead of suspending, so do they.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from hashlib import sha256
from importlib.resources.abc import Traversable
from typing import Final, Protocol

import msgspec

from stage.core.errors import ConfigurationError

OWNER: Final = "stage"
"""The owner of our own migrations."""

_FILE: Final = re.compile(
    r"(?P<name>(?P<number>\d{4})_[a-z0-9_]+(?:\.(?:expand|contract))?)"
    r"(?:\.(?P<dialect>sqlite|postgres))?\.sql"
)


class MigrationState(StrEnum):
    """Where one migration stands."""

    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"
    """Applied, and its file was edited since."""
    UNKNOWN = "unknown"
    """Applied, and there is no such file: the database is newer than the code."""
    AHEAD = "ahead"
    """Applied, and unknown here: an expansion, on which this version runs."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """One file that can be applied."""

    owner: str
    name: str
    sql: str

    @property
    def title(self) -> str:
        """Whose it is, and its name."""
        return f"{self.owner}/{self.name}"

    @property
    def expands(self) -> bool:
        """True when the release before it runs on its schema too."""
        return expands(self.name)

    @property
    def sha256(self) -> str:
        """The digest of the text, as the database records it."""
        return sha256(self.sql.encode()).hexdigest()


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one migration in the database. `applied_at` is in epoch seconds."""

    owner: str
    name: str
    sha256: str
    applied_at: float


class MigrationStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `stage db status`. `applied_at` is None for a pending migration."""

    owner: str
    name: str
    state: MigrationState
    applied_at: float | None = None


def expands(name: str) -> bool:
    """Whether the migration of that name only adds."""
    return name.endswith(".expand")


class Dialect(Protocol):
    """One database and how it applies and records migrations. It need not be safe to share."""

    @property
    def name(self) -> str:
        """The word in the names of its files: `sqlite` or `postgres`."""
        ...

    @property
    def ours(self) -> Traversable:
        """The folder of our own migrations for it."""
        ...

    async def applied(self) -> list[Applied]:
        """All records in the order of application; none without the table. Writes nothing."""
        ...

    async def prepare(self) -> None:
        """Make the table of records where it is missing."""
        ...

    async def apply(self, migration: Migration, now: float) -> None:
        """Run a migration and record it, in one transaction; nothing where it is recorded already.

        A table may be rebuilt: foreign keys are not enforced meanwhile, and checked at the end.
        Raises ConfigurationError for rows that then refer to nothing, and for a statement that
        fails or that begins or ends a transaction; then nothing of the file is applied.
        """
        ...


async def status(dialect: Dialect, folders: Sequence[Traversable] = ()) -> list[MigrationStatus]:
    """All migrations with their state, those known first. Writes nothing."""
    return compare(await dialect.applied(), collected(dialect, folders))


async def pending(dialect: Dialect, folders: Sequence[Traversable] = ()) -> list[Migration]:
    """The migrations to apply, in order. Writes nothing. Raises ConfigurationError."""
    return pending_of(await dialect.applied(), collected(dialect, folders))


async def pending_sql(dialect: Dialect, folders: Sequence[Traversable] = ()) -> str:
    """The text of all pending migrations, for operators who apply them by hand."""
    return "\n".join(
        f"-- {migration.owner}/{migration.name}\n{migration.sql.rstrip()}\n"
        for migration in await pending(dialect, folders)
    )


async def check(dialect: Dialect, folders: Sequence[Traversable] = ()) -> None:
    """Raises ConfigurationError unless every migration is applied as it stands."""
    await check_known(dialect, collected(dialect, folders))


async def check_known(dialect: Dialect, known: Sequence[Migration]) -> None:
    """As `check`, for files that are read already."""
    if waiting := pending_of(await dialect.applied(), known):
        names = ", ".join(f"{migration.owner}/{migration.name}" for migration in waiting)
        raise ConfigurationError(f"migrations are pending: {names}. Run `stage db upgrade`")


async def upgrade(
    dialect: Dialect, folders: Sequence[Traversable] = (), *, now: float
) -> list[Migration]:
    """Apply all pending migrations in order; return them. `now` is recorded, in epoch seconds.

    Raises ConfigurationError; the files before the failing one stay applied.
    """
    return await upgrade_known(dialect, collected(dialect, folders), now=now)


async def upgrade_known(
    dialect: Dialect, known: Sequence[Migration], *, now: float
) -> list[Migration]:
    """As `upgrade`, for files that are read already."""
    await dialect.prepare()
    waiting = pending_of(await dialect.applied(), known)
    for migration in waiting:
        await dialect.apply(migration, now)
    return waiting


def collected(dialect: Dialect, folders: Sequence[Traversable]) -> list[Migration]:
    """Our files for a dialect and then the author's, in order. Blocks on disk."""
    return [*read_folder(OWNER, dialect.ours, dialect.name), *authored(folders, dialect.name)]


def authored(folders: Sequence[Traversable], dialect: str) -> list[Migration]:
    """The author's migrations in the order in which they are applied, folder by folder.

    Raises ConfigurationError for a folder or a file that cannot be used.
    """
    found: list[Migration] = []
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
        found += read_folder(owner, folder, dialect)
    return found


def read_folder(owner: str, folder: Traversable, dialect: str) -> list[Migration]:
    """The migrations of one folder for a dialect, in order; files for other ones are ignored.

    Raises ConfigurationError for a misnamed file, for two migrations with one number, and for a
    folder that has files, but none for this dialect.
    """
    names: dict[str, str] = {}
    chosen: dict[str, tuple[bool, Traversable]] = {}
    """By name: whether the file is of this dialect alone, and the file."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".sql"):
            continue
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ConfigurationError(
                f"the migration {owner}/{file.name} is misnamed: call it like 0001_payment.sql,"
                " 0001_payment.expand.sql where it only adds, or 0001_payment.sqlite.sql for one"
                " database"
            )
        name = match["name"]
        _check_number(owner, match["number"], name, names)
        own = match["dialect"] == dialect
        if own or (match["dialect"] is None and not chosen.get(name, (False,))[0]):
            chosen[name] = (own, file)
    if names and not chosen:
        raise ConfigurationError(
            f"the folder of migrations {owner} has files for other databases and none for"
            f" {dialect}: add {min(names.values())}.{dialect}.sql, or {min(names.values())}.sql"
            " for all"
        )
    return [
        Migration(owner=owner, name=name, sql=file.read_text(encoding="utf-8"))
        for name, (_, file) in sorted(chosen.items())
    ]


def _check_number(owner: str, number: str, name: str, names: dict[str, str]) -> None:
    """One number, one migration: two names would run both, or one in place of the other."""
    taken = names.setdefault(number, name)
    if taken != name:
        raise ConfigurationError(
            f"two migrations of {owner} have the number {number}: {taken} and {name};"
            " renumber the newer one"
        )


def compare(applied: Iterable[Applied], known: Sequence[Migration]) -> list[MigrationStatus]:
    """The state of every migration: those known in their order, then those without a file."""
    records = {(record.owner, record.name): record for record in applied}
    lines: list[MigrationStatus] = []
    for migration in known:
        record = records.pop((migration.owner, migration.name), None)
        if record is None:
            state = MigrationState.PENDING
        elif record.sha256 == migration.sha256:
            state = MigrationState.APPLIED
        else:
            state = MigrationState.CHANGED
        lines.append(
            MigrationStatus(
                owner=migration.owner,
                name=migration.name,
                state=state,
                applied_at=None if record is None else record.applied_at,
            )
        )
    lines += [
        MigrationStatus(
            owner=record.owner,
            name=record.name,
            state=MigrationState.AHEAD if expands(record.name) else MigrationState.UNKNOWN,
            applied_at=record.applied_at,
        )
        for record in records.values()
    ]
    return lines


def pending_of(applied: Iterable[Applied], known: Sequence[Migration]) -> list[Migration]:
    """The migrations to apply. Raises ConfigurationError for one that is changed or unknown.

    An expansion that is not known is passed over: the code was taken back to the release before.
    """
    states = compare(applied, known)
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
    # The lines of the known migrations come first, one each.
    return [
        migration
        for migration, line in zip(known, states, strict=False)
        if line.state is MigrationState.PENDING
    ]
