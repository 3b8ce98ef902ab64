"""Copies of a stage's database, and how one of them takes its place: in memory, and in a file."""

from __future__ import annotations

from typing import Protocol

from msgspec.structs import replace

from stage.ports.store import LostSaga, Row, SagaRow
from stage.simulation.disk import Disk
from stage.simulation.files import BlockingStore, FileCopy
from stage.store.memory_database import MemoryDatabase


class Copy(Protocol):
    """The database of one stage as it was when this was made."""

    async def put_back(self, as_of: float, now: float) -> bool:
        """It takes the place of the database, and is named as restored.

        False where it is older than what stood there and would have been served without a word.
        """
        ...

    async def release(self, now: float) -> None:
        """As `stage db released`."""
        ...


def copy_of(disk: Disk) -> Copy:
    """A copy of the database as it is now."""
    store = disk.store
    if isinstance(store, BlockingStore):
        return FileCopy(store)
    assert disk.database is not None
    return MemoryCopy(disk.database)


class MemoryCopy:
    """A copy of a database in memory: nothing there would notice that it is older."""

    def __init__(self, database: MemoryDatabase) -> None:
        assert database.connection is not None
        self._database = database
        self._sagas: dict[str, SagaRow] = dict(database.sagas)
        self._journal: dict[str, list[Row]] = {
            saga: list(rows) for saga, rows in database.journal.items()
        }
        self._lost: dict[tuple[str, str], LostSaga] = dict(database.lost)
        self._dropped = database.dropped
        self._tables = database.connection.serialize()

    async def put_back(self, as_of: float, now: float) -> bool:
        """See `Copy`. In place: its stores stay."""
        database = self._database
        assert database.connection is not None
        for held in (database.owners, database.leases, database.mail):
            held.clear()
        for kept, then in (
            (database.sagas, self._sagas),
            (database.journal, self._journal),
            (database.lost, self._lost),
        ):
            kept.clear()
            kept.update(then)  # type: ignore[arg-type]  # each pair has its own type
        database.dropped = self._dropped
        database.connection.deserialize(self._tables)
        database.identity = replace(
            database.identity,
            generation=database.identity.generation + 1,
            restored_as_of=as_of,
            restored_at=now,
            released_at=None,
        )
        return True

    async def release(self, now: float) -> None:
        """See `Copy`."""
        self._database.identity = replace(self._database.identity, released_at=now)
