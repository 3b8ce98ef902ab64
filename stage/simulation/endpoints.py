"""The way into a simulated stage: its real endpoints, with every answer noted in the books."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import unquote

import msgspec

from stage.engine.embedded.engine import EmbeddedEngine
from stage.inbound.dispatch import dispatch
from stage.inbound.lookups import Lookups
from stage.inbound.request import HeaderPairs, Request
from stage.inbound.service import Service
from stage.ports.clock import Clock
from stage.ports.neighbour import Neighbours
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Participant
from stage.simulation.api import WEBHOOK_SECRET
from stage.simulation.books import Books
from stage.telemetry.null import NullObserver
from stage.wire import headers as h
from stage.wire.descriptor import Descriptor
from stage.wire.limits import DEFAULT_LIMITS

Pairs = Sequence[tuple[str, str]]

RUN = "/sagas"
WEBHOOKS = "/webhooks/"
COMPENSATE = "/compensate"
PROBLEM_MIN = 400


class DefectObserver(NullObserver):
    """Observes nothing but defects: each is a violation of the world."""

    def __init__(self, stage: str, books: Books) -> None:
        self._stage = stage
        self._books = books

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """See ports.observer.Observer."""
        self._books.violate("defect", saga_id, f"{self._stage} raised {error!r} in {where}")


class Endpoints:
    """Answers for one process of a stage with the endpoints that a real server calls."""

    def __init__(self, service: Service, books: Books) -> None:
        self._service = service
        self._stage = service.participant.plan.stage
        self._books = books

    async def answer(self, method: str, path: str, headers: Pairs, body: bytes) -> Answer:
        """Answer one request, and note the answer where it is about a saga."""
        asked_at = asyncio.get_running_loop().time()

        async def read_body() -> bytes:
            return body

        path, _, query = path.partition("?")
        request = Request(
            method=method,
            path=path,
            query=query,
            headers=HeaderPairs(headers),
            read_body=read_body,
        )
        given = await dispatch(self._service, request)
        if method == "POST":
            self._note(request, given.status, given.headers, given.body, asked_at)
        return Answer(status=given.status, headers=tuple(given.headers), body=given.body)

    def _note(
        self, request: Request, status: int, headers: Pairs, body: bytes, asked_at: float
    ) -> None:
        books, stage = self._books, self._stage
        if request.path == RUN:
            saga_id = request.about.saga_id
            outcome = msgspec.json.decode(body)["outcome"] if status >= PROBLEM_MIN else ""
            replayed = " replayed" if (h.IDEMPOTENCY_REPLAYED, "true") in headers else ""
            books.tell(saga_id, stage, f"answers POST /sagas: {status} {outcome}{replayed}")
            books.answered(stage, saga_id, status, body, outcome, asked_at=asked_at)
            if status == 202:
                books.deferred(stage, saga_id)
        elif request.path.startswith(WEBHOOKS):
            saga_id = request.about.saga_id
            if status == 200 and saga_id:
                self._books.acknowledged(self._stage, saga_id)
        elif request.path.endswith(COMPENSATE):
            saga_id = unquote(request.path.removeprefix(f"{RUN}/").removesuffix(COMPENSATE))
            books.tell(saga_id, stage, f"answers compensate: {status}")
            if status == 200:
                books.said_undone(stage, saga_id)
            elif status == 202:
                books.said_undoing(stage, saga_id)


def service_of(
    participant: Participant,
    engine: EmbeddedEngine,
    neighbours: Neighbours,
    observer: DefectObserver,
    clock: Clock,
) -> Service:
    """The service behind the endpoints of a simulated stage: it never waits in real time."""
    descriptor = Descriptor(
        name=participant.plan.stage, accepts={}, adds={}, compensation_window_seconds=0.0
    )
    return Service(
        engine=engine,
        participant=participant,
        observer=observer,
        clock=clock,
        descriptor=descriptor,
        limits=DEFAULT_LIMITS,
        neighbours=neighbours,
        metrics=_no_metrics,
        lookups=Lookups(engine.seen),
        webhook_secrets=_secrets,
    )


async def _secrets(_external: str) -> tuple[bytes, ...]:
    return (WEBHOOK_SECRET,)


async def _no_metrics(accept: str) -> tuple[bytes, str]:
    return b"", "text/plain"
