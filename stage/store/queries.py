"""The queries of a store on a database, by statements that every database has under one name.

A statement of one name has the same parameters and columns on every database. Where databases
differ (a list as a parameter, a page, the backlog) the store has a query of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress

from msgspec.structs import replace

from stage.core import age
from stage.core.act_key import ActKey, KeptAct
from stage.core.errors import NewerJournal
from stage.core.pause import Pause
from stage.core.states import SagaState
from stage.core.steps import VERSION_MAX
from stage.core.sweep import Sweep, SweepEnd
from stage.ports.codec import Codec
from stage.ports.store import (
    NEWEST,
    Act,
    Changes,
    Dropped,
    Entry,
    Filter,
    Group,
    LostSaga,
    Row,
    SagaRow,
)
from stage.store import rows
from stage.store.asked import AskedApprovals


class StatementQueries(ABC):
    """The part of ports.store.Store that reads. A store says how one statement is read."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._asked = AskedApprovals(self._read)

    @property
    def codec(self) -> Codec:
        """See ports.store.Store."""
        return self._codec

    @abstractmethod
    async def _read(self, name: str, *parameters: object) -> list[Row]:
        """The rows of the statement of that name. Raises StoreUnavailable."""

    @abstractmethod
    async def _read_page(self, which: Filter) -> list[Row]:
        """The rows of a page, without their envelopes. Raises StoreUnavailable."""

    async def page(self, which: Filter) -> list[SagaRow]:
        """See ports.store.Store. `envelope` is left empty."""
        found: list[SagaRow] = []
        while True:
            read = await self._read_page(which)
            listed = [row for each in read if (row := rows.listed_row(each, self._codec))]
            found += listed
            if len(listed) == len(read):
                return found
            if which.term is not None:  # nobody may take the saga of a number for one never seen
                raise NewerJournal("a newer release goes on with a saga of that number")
            # A page that is not full is the last one, so what was left out makes room for others.
            which = replace(which, after=read[-1][0], limit=which.limit - len(listed))

    async def get(self, saga_id: str) -> SagaRow | None:
        """See ports.store.Store."""
        found = await self._read("get_saga", saga_id)
        return rows.saga_row(found[0], self._codec) if found else None

    async def entries(self, saga_id: str) -> list[Entry]:
        """See ports.store.Store."""
        found = await self._read("get_journal", saga_id)
        return [rows.entry(saga_id, row, self._codec) for row in found]

    async def groups(self) -> list[Group]:
        """See ports.store.Store."""
        found = (rows.group(row) for row in await self._read("group_waiting"))
        return [each for each in found if each is not None]

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See ports.store.Store."""
        page = (NEWEST if before is None else before, limit)
        if target:
            return [rows.act(row) for row in await self._read("page_acts_of", *page, target)]
        return [rows.act(row) for row in await self._read("page_acts", *page)]

    async def act_under(self, key: ActKey) -> KeptAct | None:
        """See ports.store.Store."""
        return rows.kept_act(await self._read("act_under", key.key), key, self._codec)

    async def pauses(self) -> list[Pause]:
        """See ports.store.Store."""
        found = (rows.pause(row) for row in await self._read("get_pauses"))
        return [each for each in found if each is not None]

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See ports.store.Store."""
        found = await self._read("get_sweeps", limit, number)
        return [rows.sweep(row) for row in found] if number is not None else _known(found)

    async def unfinished_sweeps(self, limit: int) -> list[Sweep]:
        """See ports.store.Store."""
        return _known(await self._read("unfinished_sweeps", limit))

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """See ports.store.Store."""
        found = await self._read("sweep_sagas", number, end.value, limit)
        return [(saga_id, detail) for saga_id, detail in found]

    async def changed(self, since: Changes) -> list[SagaRow]:
        """See ports.store.Store."""
        found = await self._read("page_changed", since.at, since.saga_id, since.limit)
        return [rows.saga_row(row, self._codec) for row in found]

    async def due(self, before: float, limit: int, version: int = VERSION_MAX) -> list[str]:
        """See ports.store.Store."""
        times = (before, limit, version, before + age.WAIT_SECONDS_MAX)
        return [row[0] for row in await self._read("due_sagas", *times)]

    async def count(self) -> dict[SagaState, int]:
        """See ports.store.Store. States without a saga are there with 0."""
        return rows.states(await self._read("count_sagas"))

    async def lost_sagas(self, limit: int) -> list[LostSaga]:
        """See ports.store.Store."""
        return [
            LostSaga(
                saga_id=saga_id,
                requested_by=requested_by,
                reason=reason,
                first_sent_at=first_sent_at,
                asked_at=asked_at,
            )
            for saga_id, requested_by, reason, first_sent_at, asked_at in await self._read(
                "lost_sagas", limit
            )
        ]

    async def dropped(self) -> Dropped:
        """See ports.store.Store."""
        return rows.dropped((await self._read("get_dropped"))[0])

    async def answers(self, generation: int) -> dict[str, str]:
        """See ports.store.Store."""
        found = await self._read("get_reconciled", generation)
        return {row[0]: row[1] for row in found}


def _known(found: Sequence[Row]) -> list[Sweep]:
    """The sweeps of which this release knows."""
    known: list[Sweep] = []
    for row in found:
        with suppress(NewerJournal):
            known.append(rows.sweep(row))
    return known
