"""Drops what is kept of one saga by order of a person: closed, erased or purged (decision 0072)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from stage.core.act_key import ActKey
from stage.core.errors import JournalMismatch, StoreUnavailable
from stage.engine.embedded import limits as limited
from stage.engine.embedded.parts import Parts
from stage.engine.embedded.queries import EmbeddedQueries
from stage.engine.embedded.to_its_end import to_its_end
from stage.engine.saga.closing import (
    closed,
    erased,
    erasure_act,
    is_given_up,
    purge_act,
    refuse_erasure,
    refuse_purge,
    row_may_go,
)
from stage.engine.saga.repeats import refuse_repeat
from stage.ports.engine import ActRepeated, NotAllowed, Snapshot, Unsettled
from stage.ports.store import Act, SagaRow, Unit

ERASE_TRIES_MAX = 5
"""How often a saga that was written to meanwhile is looked at again."""
SCRUBS_KEPT_MAX = 100
"""Orders of which it is known here that their bytes are written over, or are being so."""
UNSEEN = "this stage had never seen the saga when that was ordered"
"""Why an order is refused whose saga was unknown: it may have come by the time of a late copy."""


class EmbeddedErasing(EmbeddedQueries):
    """The commands of ports.engine.Commands that drop contents and rows, beside the queries."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._scrubs: dict[str | tuple[int, int], asyncio.Task[None]] = {}
        """By the key of an order, or the place of a sweep; the newest last."""

    async def erase(
        self,
        saga_id: str,
        *,
        actor: str,
        reason: str,
        dry_run: bool,
        act_key: ActKey | None = None,
    ) -> Snapshot | None:
        """See `ports.engine.Commands`."""
        order = self._erase_and_scrub(
            saga_id, actor=actor, reason=reason, dry_run=dry_run, act_key=act_key
        )
        return await to_its_end(order)

    async def _erase_and_scrub(
        self,
        saga_id: str,
        *,
        actor: str,
        reason: str,
        dry_run: bool,
        act_key: ActKey | None,
    ) -> Snapshot | None:
        key = None if dry_run else act_key
        try:
            async with self._once(key):
                found = await self._erase(
                    saga_id, actor=actor, reason=reason, dry_run=dry_run, act_key=key
                )
        except ActRepeated as error:
            if not error.kept.refused:  # bytes of it may have been left
                await self._scrub_for(key)
            raise
        if found is None and key is not None:
            await self.refuse_order(key, UNSEEN)
        if found is not None and not dry_run:
            await self._scrub_for(key)
        return found

    async def refuse_order(self, act_key: ActKey, why: str) -> None:
        """See `ports.engine.Commands`."""
        await self._store.transact(
            partial(_keep_refusal, key=act_key, why=why, at=self._clock.now())
        )

    @asynccontextmanager
    async def _once(self, key: ActKey | None) -> AsyncIterator[None]:
        """Around an order for a saga: raise ActRepeated for a repeat, and keep a refusal.

        A copy that comes late would otherwise do what was refused and may be allowed by then.
        """
        if key is None:
            yield
            return
        await self.refuse_repeat(key)
        try:
            yield
        except (NotAllowed, JournalMismatch) as error:
            await self.refuse_order(key, str(error))
            raise

    async def _close(self, saga_id: str) -> None:
        """Drop all that is kept of a saga that was given up, except its row and its answer."""
        row = await self._store.get(saga_id)
        if row is not None and is_given_up(row):
            after = closed(row, self._clock.now())
            await self._store.transact(lambda unit: unit.close(after, epoch=row.epoch))

    async def _scrub_for(self, key: ActKey | None) -> None:
        if key is None:
            await self._scrub()
        else:
            await self._scrub_once(key.key)

    async def _scrub_once(
        self, order: str | tuple[int, int], clean: set[str] | None = None
    ) -> None:
        """Scrub for one order. A copy of it awaits the scrub of the first, however long that takes.

        Each would copy the whole database once more otherwise, behind the one that is under way. A
        failed scrub is forgotten, so that the order can be given again.
        """
        scrub = self._scrubs.get(order)
        if scrub is None:
            scrub = asyncio.get_running_loop().create_task(self._scrub(clean))
            self._scrubs[order] = scrub
            scrub.add_done_callback(partial(self._keep_unless_failed, order))
            if len(self._scrubs) > SCRUBS_KEPT_MAX:
                del self._scrubs[next(iter(self._scrubs))]
        await asyncio.shield(scrub)  # a caller that leaves ends it for nobody

    def _keep_unless_failed(self, order: str | tuple[int, int], scrub: asyncio.Task[None]) -> None:
        failed = scrub.cancelled() or scrub.exception() is not None
        if failed and self._scrubs.get(order) is scrub:
            del self._scrubs[order]

    async def _scrub(self, clean: set[str] | None = None) -> None:
        try:
            await self._store.transact(lambda unit: unit.drop_digests())
            await self._store.scrub(clean)
        except StoreUnavailable as error:
            raise Unsettled(
                "the contents are erased, but bytes of them may be left in the files of the"
                f" database: {error}. Then erase it again"
            ) from error

    async def _erase(
        self,
        saga_id: str,
        *,
        actor: str,
        reason: str,
        dry_run: bool = False,
        act_key: ActKey | None = None,
    ) -> Snapshot | None:
        """Erase the contents; their bytes may be left in the file."""
        await self._written()
        for _ in range(ERASE_TRIES_MAX):
            now = await self._now(saga_id)
            if now is None:
                return None
            row = await self._store.get(saga_id)
            if row is None:
                return None
            if why := refuse_erasure(row):
                raise NotAllowed(why)
            if dry_run:
                return now
            at = self._clock.now()
            after = erased(row, at)
            act = erasure_act(row, after, actor, reason, at)
            close = partial(_close_with, row=row, after=after, act=act, key=act_key)
            if await self._store.transact(close):
                return await self._elsewhere.snapshot_of(after)
            await self._clock.sleep(limited.LOOK_AGAIN_SECONDS)
        raise Unsettled("the saga changes all the time: ask again")

    async def _purge(self, saga_id: str, *, actor: str, reason: str) -> None:
        """Drop the row of a saga that is closed, or only its answer where its id has no instant."""
        if self._store.identity.awaits_release:
            raise NotAllowed(
                "the database was restored, and its neighbours are asked about its sagas: release"
                " it, then purge"
            )
        row, now = await self._store.get(saga_id), self._clock.now()
        if row is None:
            return
        if why := refuse_purge(row, now):
            raise NotAllowed(why)
        act = purge_act(row, actor, reason, now)
        if not await self._store.transact(partial(_purge_with, row=row, act=act)):
            raise Unsettled("the saga changes just now: ask again")
        await self._dropped.refresh()


async def _close_with(
    unit: Unit, *, row: SagaRow, after: SagaRow, act: Act, key: ActKey | None
) -> bool:
    """Erase it and keep the act, or neither."""
    await refuse_repeat(unit, key)
    erased_now = await unit.close(after, epoch=row.epoch)
    if erased_now:
        await unit.keep_act(act)
        if key is not None:
            await unit.keep_act_key(key, act.at)
    return erased_now


async def _keep_refusal(unit: Unit, *, key: ActKey, why: str, at: float) -> None:
    """Keep why an order was refused. Raises ActRepeated where a copy of it was done meanwhile."""
    await refuse_repeat(unit, key)
    await unit.keep_act_key(key, at, refused=why)


async def _purge_with(unit: Unit, *, row: SagaRow, act: Act) -> bool:
    """Purge it and keep the act, or neither."""
    whole = row_may_go(row)
    gone = await (unit.drop_row(row.id) if whole else unit.drop_answer(row.id))
    if gone:
        await unit.keep_act(act)
    return gone
