"""A saga that another replica runs: wait for it, ask its owner, answer from its row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from stage.core import events as e
from stage.core.act_key import KeptAct
from stage.core.errors import JournalMismatch, NewerJournal
from stage.core.saga import Saga
from stage.engine.embedded.limits import (
    LOOK_AGAIN_SECONDS,
    LOOK_SECONDS,
    OPEN_SECONDS_MAX,
)
from stage.engine.saga.context import bare_saga
from stage.engine.saga.interpreter import Interpreter, as_journaled
from stage.engine.saga.repeats import act_key_of
from stage.ports.engine import ActRepeated, Snapshot, Unsettled
from stage.ports.store import Entry, SagaRow, Store

NO_LENGTH: Final = -1
"""The number of entries of no saga: a wait for a change from it returns at once."""


class LeftOut(Exception):
    """The owner of a saga was given a verb, and did not do it: it was not allowed there."""


class Elsewhere:
    """Reads what is stored, and waits for what the owner of a saga does to it."""

    def __init__(self, interpreter: Interpreter, store: Store, *, scheduled: bool) -> None:
        """`scheduled`: a scheduler opens the sagas that nobody owns, so they are waited for too."""
        self._interpreter = interpreter
        self._store = store
        self._scheduled = scheduled

    async def stored(self, saga_id: str) -> Snapshot | None:
        """The saga as it is stored; None when it was never seen, or is dropped by now."""
        row = await self._store.get(saga_id)
        return None if row is None else await self._by_now(row)

    async def snapshot_of(self, row: SagaRow) -> Snapshot:
        """The saga of a row that was read, with the journal that is stored by now.

        The row may have been closed, erased or dropped since. Only closed ones are dropped.
        """
        found = await self._by_now(row)
        if found is None:
            found = self._snapshot(replace(row, closed_at=row.updated_at, envelope=b""), [])
        return found

    async def _by_now(self, row: SagaRow) -> Snapshot | None:
        """The saga of a row that was read; None where that was dropped since."""
        try:
            entries = [] if row.closed_at is not None else await self._store.entries(row.id)
            if entries or row.closed_at is not None:
                return self._snapshot(row, entries)
            newer = await self._store.get(row.id)  # its journal has gone since the row was read
        except NewerJournal:
            return Snapshot(row=row, saga=bare_saga(row), next_at=row.due_at, readable=False)
        return None if newer is None else self._snapshot(newer, entries)

    def _snapshot(self, row: SagaRow, entries: list[Entry]) -> Snapshot:
        if row.closed_at is not None:
            return Snapshot(row=row, saga=bare_saga(row), readable=False)
        if not entries:  # the rules would take it for a saga that is under way
            return Snapshot(row=row, saga=bare_saga(row), next_at=row.due_at, readable=False)
        try:
            saga = self._interpreter.fold(row.id, entries)
        except JournalMismatch:
            # Another version of the stage left it behind.
            return Snapshot(row=row, saga=bare_saga(row), next_at=row.due_at, readable=False)
        return Snapshot(row=row, saga=saga, next_at=row.due_at)

    async def next_change(self, row: SagaRow, until: float) -> None:
        """Return after the next change by another replica; at once when none runs the saga."""
        await self._store.ownership.changed(row.id, row.length, until)

    async def _changed(self, saga_id: str, length: int, until: float) -> bool:
        """Wait for a change; False when the saga is to be opened here."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        held = await self._store.ownership.changed(saga_id, length, until)
        if held or not self._scheduled:
            return held
        await asyncio.sleep(min(max(until - looked, 0.0), LOOK_SECONDS))
        return True

    async def row_when(
        self, saga_id: str, until: float, wanted: Callable[[SagaRow], bool]
    ) -> SagaRow | None:
        """The row once it is wanted, or as it is at `until`.

        None when no live other replica owns the saga before that: it is to be opened here.
        """
        loop, held = asyncio.get_running_loop(), True
        while True:
            row = await self._store.get(saga_id)
            if row is None:
                return None
            if wanted(row):
                return row
            if not held:
                return None
            if loop.time() >= until:
                return row
            held = await self._changed(saga_id, row.length, until)

    async def snapshot_when(
        self, saga_id: str, until: float, wanted: Callable[[Saga], bool]
    ) -> Snapshot | None:
        """As `row_when`, for what only the journal shows."""
        loop, held = asyncio.get_running_loop(), True
        while True:
            found = await self.stored(saga_id)
            if found is None or wanted(found.saga):
                return found
            if not held:
                return None
            if loop.time() >= until:
                return found
            held = await self._changed(saga_id, found.row.length, until)

    async def journaled(
        self,
        saga_id: str,
        event: e.Event,
        needless: Callable[[Saga], bool],
        until: float,
        since: int = 0,
    ) -> bool:
        """Have an event journaled by the owner. True once it is, or once it is `needless`.

        A decision is looked for behind the entry numbered `since`, because a person may say the
        same twice. False when no live other replica owns the saga: it is to be opened here.
        Raises Unsettled when the owner took too long, and may still journal the event; ActRepeated
        for a verb of which another copy is journaled; LeftOut for a verb that the owner refused.
        """
        # Long because each way in which an event is met, or is not, has its line.
        loop, ownership = asyncio.get_running_loop(), self._store.ownership
        latest = max(until, loop.time()) + OPEN_SECONDS_MAX
        held, mail = True, None
        while True:
            # Before the journal is read: the mail goes with the entry, or because there is none.
            gone = mail is not None and not await ownership.unreceived(mail.number)
            row = await self._store.get(saga_id)
            if row is None:
                return False
            entries = await self._store.entries(saga_id)
            saga = self._snapshot(row, entries).saga
            posted = as_journaled(saga.under(self._interpreter.plan), saga, event)
            if any(_is_entry(entry, posted, since) for entry in entries):
                return True
            if (copy := _copy_of(posted, entries)) is not None:  # the owner leaves this one out
                raise ActRepeated(copy)
            if needless(saga):
                return True
            if not held:
                return False
            if loop.time() >= latest:
                raise Unsettled("the replica that runs the saga did not answer in time")
            soon = latest
            if isinstance(event, e.Verb):
                soon = min(loop.time() + LOOK_AGAIN_SECONDS, latest)
            # Mail is for one run: after a takeover, which raises the epoch, it is sent again.
            if mail is None or row.epoch > mail.epoch:
                mail = await ownership.post(saga_id, event)
                if mail is None:
                    return False
            elif soon < latest and gone and await ownership.changed(saga_id, NO_LENGTH, soon):
                raise LeftOut
            held = await self._changed(saga_id, row.length, soon)


def _copy_of(posted: e.Event, entries: Sequence[Entry]) -> KeptAct | None:
    """The result of the copy of an order that came in before this one."""
    key = act_key_of(posted)
    if key is not None:
        for entry in entries:
            if act_key_of(entry.event) == key:
                return KeptAct(digest=key.digest, at=entry.event.at)
    return None


def _is_entry(entry: Entry, posted: e.Event, since: int) -> bool:
    """Whether the entry is that event. A verb that ends a wait has the instant of its entry.

    A release before keys of acts has written it without its own.
    """
    found = entry.event
    if isinstance(found, e.Verb) and isinstance(posted, e.Verb):
        found = replace(found, act_key=posted.act_key)
    if isinstance(found, e.Verb) and isinstance(found, e.WaitEnd):
        return entry.number > since and replace(found, at=posted.at) == posted
    return found == posted
