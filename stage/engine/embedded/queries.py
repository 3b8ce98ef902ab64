"""Queries: live sagas as they are in memory, all others as they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec
from msgspec.structs import replace

from stage.core.act_key import ActKey
from stage.core.errors import NewerJournal
from stage.core.pause import Pause
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.sweep import Sweep, SweepEnd
from stage.engine.embedded import limits as limited
from stage.engine.embedded.approvals import approvals_of
from stage.engine.embedded.census import Census
from stage.engine.embedded.live_sagas import snapshot
from stage.engine.embedded.parts import Parts
from stage.engine.saga.context import context_of
from stage.engine.saga.dropped import past_retention
from stage.engine.saga.repeats import refuse_kept
from stage.engine.saga.shared import shared_with
from stage.engine.saga.shown import SHOWN_ENVELOPE_BYTES_MAX, shown_in
from stage.ports.engine import PastRetention, SagaLost, SharedSagas, Shown, Snapshot
from stage.ports.identity import Identity
from stage.ports.peers import PeerStanding
from stage.ports.stage import family_of
from stage.ports.store import Act, Backlog, Changes, Entry, Filter, Group, SagaRow
from stage.wire.envelope import format_instant
from stage.wire.problem import WireError
from stage.wire.shared import SHARED_BYTES_MAX, SharedSaga

PAYLOAD_ERRORS = (ValueError, WireError, msgspec.MsgspecError, NewerJournal)
"""The errors of a payload that cannot be read here."""
SHOWN_AT_ONCE = 50
"""Payloads that are decoded before others have their turn in the event loop."""


class EmbeddedQueries:
    """ports.engine.Queries."""

    def __init__(self, parts: Parts) -> None:
        self._sagas = parts.sagas
        self._pauses = parts.pauses
        self._sender = parts.sender
        self._units = parts.units
        self._dropped = parts.dropped
        self._elsewhere = parts.elsewhere
        self._store = parts.store
        self._plan = parts.participant.plan
        family = list(family_of(parts.participant))
        self._shows = {each.plan.version: each.shows for each in family}
        """By version: each shows of its own sagas what it declares."""
        self._plans = {each.plan.version: each.plan for each in family}
        self._redact = parts.redact
        self._clock = parts.clock
        self._census = Census(self._store.count, loop_time)

    async def get_saga(self, saga_id: str, wait_seconds: float = 0.0) -> Snapshot | None:
        """See `ports.engine.Queries`."""
        until = loop_time() + wait_seconds
        while True:
            found = await self._now(saga_id)
            if found is None or _needs_no_wait(found.saga) or loop_time() >= until:
                return found
            await self._changed(found, until, _needs_no_wait)

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        """See `ports.engine.Queries`."""
        live = frozenset(saga_id for saga_id in saga_ids if saga_id in self._sagas)
        if len(live) == len(saga_ids):
            return live
        if self._store.identity.awaits_release:
            raise SagaLost("the database was restored: which sagas were seen is not known here")
        found = live | await self._store.seen(saga_ids)
        # A saga that may have been dropped was maybe executed: nothing may say that it was not.
        return found | await self._dropped.among([each for each in saga_ids if each not in found])

    async def journal(self, saga_id: str, after: int = 0, wait_seconds: float = 0.0) -> list[Entry]:
        """See `ports.engine.Queries`."""
        until = loop_time() + wait_seconds

        def is_longer(saga: Saga) -> bool:
            return saga.length > after

        while True:
            await self._written()
            entries = await self._store.entries(saga_id)
            behind = [entry for entry in entries if entry.number > after]
            if behind or not entries or loop_time() >= until:
                return behind
            found = await self._now(saga_id)
            if found is None:
                return behind
            await self._changed(found, until, is_longer)

    async def _now(self, saga_id: str) -> Snapshot | None:
        live = self._sagas.get(saga_id)
        if live is not None and live.saga is not None and not live.lost:
            return snapshot(live)
        found = await self._elsewhere.stored(saga_id)
        if found is None and self._store.identity.awaits_release:
            raise SagaLost(f"saga {saga_id} is not in the database, which was restored")
        if found is None and await self._dropped.has(saga_id):
            raise past_retention(saga_id)
        return found

    async def _changed(self, found: Snapshot, until: float, wanted: Callable[[Saga], bool]) -> None:
        """Return after a change that is wanted, or a while later: the saga may not be live."""
        live = self._sagas.get(found.row.id)
        if live is not None and not live.over and not live.lost:
            await live.watch(until, lambda live: live.saga is not None and wanted(live.saga))
            return
        soon = min(until, loop_time() + limited.LOOK_AGAIN_SECONDS)
        await self._elsewhere.next_change(found.row, soon)
        if loop_time() < soon:
            # No other replica runs it: it is due later, here.
            await asyncio.sleep(soon - loop_time())

    async def page(self, which: Filter) -> list[SagaRow]:
        """See `ports.engine.Queries`."""
        await self._written()
        return await self._store.page(which)

    async def shown(self, versions: Mapping[str, int]) -> dict[str, dict[str, Shown]]:
        """See `ports.engine.Queries`."""
        saga_ids = [each for each, version in versions.items() if self._shows.get(version)]
        found: dict[str, dict[str, Shown]] = {}
        for first in range(0, len(saga_ids), SHOWN_AT_ONCE):
            some = saga_ids[first : first + SHOWN_AT_ONCE]
            held = await self._store.envelopes(some, SHOWN_ENVELOPE_BYTES_MAX)
            for saga_id, encoded in held.items():
                with suppress(*PAYLOAD_ERRORS):  # that of this one saga
                    data = self._store.codec.decode_envelope(saga_id, encoded).data
                    shows = self._shows[versions[saga_id]]
                    found[saga_id] = shown_in(data, shows, self._redact)
        return found

    async def groups(self) -> list[Group]:
        """See `ports.engine.Queries`."""
        await self._written()
        return await self._store.groups()

    async def acts(self, limit: int, *, before: int | None = None, target: str = "") -> list[Act]:
        """See `ports.engine.Queries`."""
        return await self._store.acts(limit, before=before, target=target)

    async def refuse_repeat(self, act_key: ActKey) -> None:
        """See `ports.engine.Queries`."""
        refuse_kept(act_key, await self._store.act_under(act_key))

    async def sweeps(self, limit: int, number: int | None = None) -> list[Sweep]:
        """See `ports.engine.Queries`."""
        return await self._store.sweeps(limit, number)

    async def sweep_sagas(self, number: int, end: SweepEnd, limit: int) -> list[tuple[str, str]]:
        """See `ports.engine.Queries`."""
        return await self._store.sweep_sagas(number, end, limit)

    @property
    def identity(self) -> Identity:
        """See `ports.engine.Queries`."""
        return self._store.identity

    def peers(self) -> list[PeerStanding]:
        """See `ports.engine.Queries`."""
        return self._sender.standing()

    @property
    def pauses(self) -> tuple[Pause, ...]:
        """See `ports.engine.Queries`."""
        return self._pauses.active

    @property
    def written_pauses(self) -> tuple[Pause, ...]:
        """The newest word on each target of a pause, as its file has it."""
        return self._pauses.written

    async def read_pauses(self) -> None:
        """See `ports.engine.Queries`."""
        await self._pauses.read()

    async def shared(self, neighbour: str, since: Changes) -> SharedSagas:
        """See `ports.engine.Queries`."""
        if self._store.identity.awaits_release:
            raise SagaLost("the database was restored: which sagas were shared is not known here")
        await self._written()
        dropped = await self._store.dropped()
        if since.at <= dropped.changed_until:
            raise PastRetention(
                "rows of sagas that changed until"
                f" {format_instant(dropped.changed_until)} were dropped for their age, so that the"
                " list would not be whole: ask from later on, and take over the older ones by hand"
            )
        rows = await self._store.changed(since)
        found: list[SharedSaga] = []
        places: list[tuple[float, str]] = []
        size = 0
        for number, row in enumerate(rows, start=1):
            snapshot = await self._elsewhere.snapshot_of(row)
            context = context_of(snapshot.row, self._store.codec)  # it may be closed by now
            saga = shared_with(neighbour, self._plan, snapshot, context)
            if saga is not None:
                found.append(saga)
                places.append((row.updated_at, row.id))
                size += len(context.envelope_bytes)
            if number == since.limit or size > SHARED_BYTES_MAX:
                behind = replace(since, at=row.updated_at, saga_id=row.id)
                return SharedSagas(sagas=found, next=behind, places=places)
        return SharedSagas(sagas=found, places=places)

    async def count(self) -> dict[SagaState, int]:
        """See `ports.engine.Queries`."""
        await self._written()
        return await self._census.read()

    async def backlog(self) -> Backlog:
        """See `ports.engine.Queries`."""
        now = self._clock.now()
        found = await self._store.backlog(now, self._plan.version)
        return replace(found, approvals=approvals_of(found.asked, self._plans, now))

    async def _written(self) -> None:
        """Let a query find what was answered before, unless that takes long.

        While the database is away it would take as long as that lasts.
        """
        if self._store.available:
            await self._units.written(loop_time() + limited.WRITTEN_SECONDS_MAX)


def _needs_no_wait(saga: Saga) -> bool:
    """True of a saga that is over, or waits for a person."""
    return saga.ended or bool(saga.parked) or saga.forgotten


def loop_time() -> float:
    """The event loop's clock, by which waits are measured."""
    return asyncio.get_running_loop().time()
