"""Wires one worker to the others that serve the stage with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from msgspec.structs import replace

from stage.bootstrap.seat import Seat
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.live_reconcile import Reconciling
from stage.engine.workers.duties import Duties
from stage.engine.workers.engine import Answers, WorkersEngine
from stage.engine.workers.link import WorkerDoor, WorkerLink
from stage.engine.workers.placement import Placement
from stage.inbound.local import open_socket
from stage.inbound.lookups import Lookups
from stage.inbound.service import Service
from stage.telemetry.workers import together


class Together:
    """The service of one worker as all of them give it together.

    With a file for each, every saga is asked for at its home. With one database for all they are
    replicas, and have only their metrics in one text.
    """

    def __init__(self, seat: Seat, engine: EmbeddedEngine, own: Service) -> None:
        """`own` is the service of the worker alone."""
        reconciling = own.reconcile
        assert isinstance(reconciling, Reconciling)
        duties = Duties(
            engine,
            breakers=own.breakers,
            figures=own.figures,
            metrics=own.metrics,
            reconcile=reconciling,
        )
        others = (each for each in range(seat.processes) if each != seat.index)
        links = {each: WorkerLink(each, seat.socket_of(each)) for each in others}
        placement = seat.placement or Placement((seat.processes,))
        self._workers = WorkersEngine(engine, duties, seat.index, placement, links, own.clock)
        self._door = WorkerDoor(Answers(engine, duties, own.observer))
        self._seat = seat
        if seat.placement is not None:
            engine.sweep_by(self._workers.act_on, self._workers.finish)
            reconciling.belongs = self._workers.belongs
        self.service = self._shared(own)
        """The service that the endpoints of this worker use."""

    def _shared(self, own: Service) -> Service:
        workers = self._workers
        if self._seat.placement is None:
            return replace(own, metrics=self._metrics)
        return replace(
            own,
            engine=workers,
            lookups=Lookups(workers.seen),
            metrics=self._metrics,
            breakers=lambda: workers.breakers(own.breakers()),
            figures=lambda: workers.figures(own.figures()),
            reconcile=workers.reconcile,
        )

    async def _metrics(self, accept: str) -> tuple[bytes, str]:
        return together(await self._workers.metrics(accept))

    async def meet(self) -> None:
        """Ask the others how they stand, now that each of them is there."""
        await self._workers.ask_others()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Let the others in, and ask them, until all sagas have come to rest."""
        await self._door.open(self._seat.socket_of(self._seat.index), open_socket)
        self._workers.start()
        try:
            yield
        finally:
            self._workers.stop()
            await self._door.close()


TOGETHER: web.AppKey[Together] = web.AppKey("together", Together)
