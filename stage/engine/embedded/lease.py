"""The duties of a replica towards the others: its lease, its mail, and giving back what rests.

On a store that one process has to itself, none of these duties runs. Several such processes still
divide the limits of the peers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from stage.core import events as e
from stage.core.errors import StoreUnavailable
from stage.engine.embedded import limits
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.withdrawing import Withdrawing
from stage.engine.saga.opening import OpenRequest
from stage.ports.clock import Clock
from stage.ports.engine import NotAllowed
from stage.ports.observer import Observer, TraceContext
from stage.ports.ownership import Mail, Ownership


class Lease:
    """Renews the lease, delivers mail, and releases what rests. A round goes on after any error."""

    def __init__(
        self,
        sagas: LiveSagas,
        ownership: Ownership,
        observer: Observer,
        clock: Clock,
        *,
        withdrawing: Withdrawing,
        divide: Callable[[int], None],
    ) -> None:
        """`divide` is called with the number of replicas that share the limits of the peers."""
        self._withdrawing = withdrawing
        self._sagas = sagas
        self._ownership = ownership
        self._observer = observer
        self._clock = clock
        self._divide = divide
        self._tasks: list[asyncio.Task[None]] = []
        self._resting: dict[str, int | None] = {}
        """Sagas to give back: they left memory, and are due later. Each with the number of its
        entries, unless it is left to a newer release."""
        self._delivered: set[int] = set()
        """Mail that is on its way into a journal."""
        self._orders: set[asyncio.Task[None]] = set()
        """Verbs out of the mail for which attempts are taken back."""

    def start(self, mail_seconds: float) -> None:
        """Begin the rounds, where there are other replicas, and read their mail so often."""
        self._divide(self._ownership.share.replicas)
        if self._ownership.renew_seconds is None:
            return
        self._sagas.rests = self._rests
        loop = asyncio.get_running_loop()
        rounds = (self._renew(self._ownership.renew_seconds), self._serve_mail(mail_seconds))
        self._tasks = [loop.create_task(each) for each in rounds]

    async def stop(self) -> None:
        """Begin no further round, and give up everything."""
        tasks = [*self._tasks, *self._orders]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(StoreUnavailable):  # then the lease runs out
            await self._ownership.leave()

    def _rests(self, saga_id: str, length: int | None) -> None:
        self._resting[saga_id] = length

    async def _renew(self, seconds: float) -> None:
        while True:
            await self._clock.sleep(seconds)
            try:
                if not await self._ownership.renew():
                    self._sagas.lose_all()
                self._divide(self._ownership.share.replicas)
            except StoreUnavailable:
                pass  # it is tried again, and nothing is sent once the lease is over
            except Exception as error:
                self._observer.defect("renew", "", TraceContext(), error)

    async def _serve_mail(self, seconds: float) -> None:
        while True:
            await self._clock.sleep(seconds)
            try:
                await self._release()
                mail = await self._ownership.mail()
                self._delivered.intersection_update(each.number for each in mail)
                for each in mail:
                    if each.number not in self._delivered:
                        self._deliver(each)
            except StoreUnavailable:
                pass  # it stays where it is
            except Exception as error:
                self._observer.defect("mail", "", TraceContext(), error)

    async def _release(self) -> None:
        """Give back what rests, and what is in memory again once it has left that."""
        away = {each: length for each, length in self._resting.items() if each not in self._sagas}
        for saga_id in away:  # any of these may be opened again before the database hears of it
            del self._resting[saga_id]
        try:
            if away:
                await self._ownership.release(away)
        except StoreUnavailable:
            self._resting = {**away, **self._resting}  # what came to rest meanwhile is newer
            raise

    def _deliver(self, mail: Mail) -> None:
        """Hand an event to its saga, once: an event that is refused is not tried again."""
        live = self._sagas.get(mail.saga_id)
        signals = e.CompensationRequested | e.Verb | e.AnswerDeferred | e.Webhook
        if live is None and isinstance(mail.event, signals):
            self._sagas.open(
                OpenRequest(saga_id=mail.saga_id, signal=mail.event, mail=(mail.number,))
            )
        elif live is not None and live.saga is not None and not live.over:
            if live.saga.epoch != mail.epoch:
                return  # it was read for the run before: its sender posts it again
            if isinstance(mail.event, e.Verb) and self._withdrawing.has(mail.saga_id):
                making = self._make_way(live, mail.event, mail.number)
                order = asyncio.get_running_loop().create_task(making)
                self._orders.add(order)
                order.add_done_callback(self._orders.discard)
            else:
                live.post(mail.event, mail=mail.number)
        else:
            return  # it is being opened: the next round finds it open
        self._delivered.add(mail.number)

    async def _make_way(self, live: LiveSaga, verb: e.Verb, number: int) -> None:
        """Hand a verb to its saga behind the attempts that are taken back for it."""
        until = asyncio.get_running_loop().time() + limits.OPEN_SECONDS_MAX
        with suppress(NotAllowed):  # the saga leaves it out, of which its sender hears
            await self._withdrawing.make_way(live, verb, until)
        if live.over:
            self._delivered.discard(number)  # the next round opens the saga with it
        else:
            live.post(verb, mail=number)
