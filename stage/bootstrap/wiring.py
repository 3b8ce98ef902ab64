"""Wires one stage: makes its rooms, gives each what it needs, opens and closes them in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import random
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web
from msgspec.structs import replace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from stage.authoring.declaration import StageDeclaration
from stage.authoring.watched import Report, WatchedParticipant
from stage.bootstrap.activity import tasks_of, working
from stage.bootstrap.author_code import AuthorCodeWatch
from stage.bootstrap.binding import bind_configured
from stage.bootstrap.callers import callers_of, open_callers
from stage.bootstrap.console import make_console
from stage.bootstrap.credentials import credentials_of
from stage.bootstrap.database import make_store, make_suspects
from stage.bootstrap.database_log import (
    log_database,
    log_misfits,
    log_newer,
    log_skew,
    log_trouble,
    log_unverified,
)
from stage.bootstrap.listener import check_not_ours
from stage.bootstrap.process_log import log_readiness
from stage.bootstrap.reconcile import reconciling_of
from stage.bootstrap.scheduler import scheduler_of
from stage.bootstrap.seat import Seat
from stage.bootstrap.tables import TABLES, Tables, closed_for, opened_for
from stage.bootstrap.together import TOGETHER, Together
from stage.bootstrap.workers import refuse_workers
from stage.config import Config
from stage.config.settings import DAY
from stage.core.shares import Shares
from stage.engine.clock import SteadyClock, begin, wall_of
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.limits import EngineLimits
from stage.inbound.activity import Tasks
from stage.inbound.admission import Admission
from stage.inbound.aiohttp import SERVICE, make_app
from stage.inbound.asgi import AsgiApplication
from stage.inbound.front_door import Hosts
from stage.inbound.lookups import Lookups
from stage.inbound.newest_tasks import NewestTasks
from stage.inbound.overload import watch_load
from stage.inbound.service import Service
from stage.inbound.tls import ListenerTls
from stage.outbound.client import PeerClient
from stage.outbound.credentials import Credentials
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.certificates import FileState
from stage.ports.connection import Connection, connection_of, former_names
from stage.ports.figures import Figures, Lately, Places
from stage.ports.observer import Observer, TraceContext
from stage.ports.peers import PeerLimits, Peers
from stage.ports.stage import Participant
from stage.ports.store import Store
from stage.telemetry import logs
from stage.telemetry.compose import Listener, default_observer
from stage.telemetry.exposition import Exposition
from stage.telemetry.gauges import Gauges, Sources
from stage.telemetry.last_hour import LastHour
from stage.telemetry.meters import bridge
from stage.telemetry.metrics import Metrics
from stage.telemetry.streams import report_dropped
from stage.wire.descriptor import Descriptor
from stage.wire.limits import DEFAULT_LIMITS, Limits


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The recipients of spans, metrics and events in place of those of the process.

    An `observer` takes the place of all but the metrics.
    """

    observer: Observer | None = None
    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None


OF_THE_PROCESS: Final = Telemetry()


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """The listener and the place among workers, which `stage serve` alone can give.

    Under another server it `listens` at no port. `seat` is None where one process serves the stage.
    """

    listens: bool = False
    tls: ListenerTls | None = None
    seat: Seat | None = None


ELSEWHERE: Final = Served()


def build_app(
    stage: StageDeclaration[Any, Any],
    config: Config,
    *,
    observer: Observer | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    served: Served = ELSEWHERE,
) -> web.Application:
    """The application of one stage, for `web.run_app`, a server of your own, or `add_subapp`.

    Spans are made by the `tracer_provider` and metrics by the `meter_provider`, otherwise by those
    of the process. An `observer` takes the place of all telemetry but the metrics. `served` is for
    `stage serve`, whose listener is ours.

    Raises DeclarationError and ConfigurationError with the fix in the message.
    """
    telemetry = Telemetry(
        observer=observer, tracer_provider=tracer_provider, meter_provider=meter_provider
    )
    wired = wire(stage, config, telemetry, served)
    app = make_app()
    app[SERVICE] = wired.service
    app[TABLES] = wired.tables

    async def lifetime(_app: web.Application) -> AsyncIterator[None]:
        async with wired.opened():
            yield

    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(lambda _app: wired.drain())
    if wired.together is not None:
        app[TOGETHER] = wired.together
    return app


def build_asgi(
    stage: StageDeclaration[Any, Any],
    config: Callable[[], Config],
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> AsgiApplication:
    """The stage as an ASGI application; `config` is asked for at each start of its lifespan."""

    telemetry = Telemetry(tracer_provider=tracer_provider, meter_provider=meter_provider)

    @asynccontextmanager
    async def running() -> AsyncIterator[Service]:
        wired = wire(stage, config(), telemetry)
        async with wired.opened():
            opened_for(app, wired.tables)
            try:
                yield wired.service
            finally:
                closed_for(app)
                await wired.drain()

    app = AsgiApplication(running)
    return app


class Rooms(NamedTuple):
    """The parts that the rooms of one stage have made, each with those that it needs."""

    service: Service
    engine: EmbeddedEngine
    store: Store
    transport: Transport
    gauges: Gauges
    credentials: Credentials
    watch: AuthorCodeWatch
    tasks: Tasks | None
    """The tasks of an activity of Step Functions, where the stage does them."""


class WiredStage:
    """The rooms of one stage, connected. An HTTP server opens them, drains them and closes them."""

    def __init__(self, config: Config, rooms: Rooms, seat: Seat | None = None) -> None:
        self.together = None if seat is None else Together(seat, rooms.engine, rooms.service)
        self.service = rooms.service if self.together is None else self.together.service
        """The parts that the endpoints use."""
        self.tables = Tables(rooms.store)
        """The author's tables, for endpoints beside the stage."""
        self._config = config
        self._engine = rooms.engine
        self._store = rooms.store
        self._transport = rooms.transport
        self._gauges = rooms.gauges
        self._credentials = rooms.credentials
        self._watch = rooms.watch
        self._tasks = rooms.tasks

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the rooms, serve within, and close them in reverse order.

        An error or a stop on the way in closes the rooms that are open by then. A room that cannot
        be closed keeps no other open.
        """
        for ignored in self._config.ignored:
            logs.default_logger().warning("setting_ignored", detail=ignored)
        await self._credentials.open()
        await open_callers(self.service.callers)
        async with AsyncExitStack() as rooms:
            await self._store.open()
            rooms.push_async_callback(self._store.close)
            begin(self.service.clock)
            log_database(self._store)
            log_skew(self._store)
            log_unverified(self._config.database)
            await rooms.enter_async_context(self._watched_store())
            await rooms.enter_async_context(self._watch.opened())
            await self._transport.open()
            rooms.push_async_callback(self._transport.close)
            rooms.push_async_callback(self._engine.drain, 0.0)
            await self._engine.start()
            await log_newer(self._engine)
            await log_misfits(self._store, self._engine, self.service)
            if self.together is not None:
                await rooms.enter_async_context(self.together.opened())
            await rooms.enter_async_context(self._fresh_gauges())
            await rooms.enter_async_context(self._watched_load())
            places = self._config.concurrency_max
            await rooms.enter_async_context(working(self.service, self._tasks, places))
            yield

    @asynccontextmanager
    async def _watched_store(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        watching = (
            loop.create_task(log_trouble(self._store, self.service.clock)),
            loop.create_task(
                log_readiness(self._engine, self._store, lambda: self._watch.code.stuck)
            ),
        )
        try:
            yield
        finally:
            for each in watching:
                each.cancel()

    @asynccontextmanager
    async def _fresh_gauges(self) -> AsyncIterator[None]:
        report = partial(self.service.observer.defect, "watch", "", TraceContext())
        fresh = asyncio.get_running_loop().create_task(self._gauges.keep_fresh(report))
        try:
            yield
        finally:
            fresh.cancel()

    @asynccontextmanager
    async def _watched_load(self) -> AsyncIterator[None]:
        overload = self.service.admission.overload
        waited = self._engine.offers_wait_seconds
        overload.offers = lambda: self._engine.offers
        watching = asyncio.get_running_loop().create_task(watch_load(overload, waited))
        try:
            yield
        finally:
            watching.cancel()

    async def drain(self) -> None:
        """Let live sagas come to rest, as long as `drain_seconds` says."""
        await self._engine.drain(self._config.drain_seconds)


# Long because it lists the rooms in the order in which they need each other.
def wire(
    stage: StageDeclaration[Any, Any],
    config: Config,
    telemetry: Telemetry = OF_THE_PROCESS,
    served: Served = ELSEWHERE,
) -> WiredStage:
    """Connect the rooms of one stage. Raises DeclarationError and ConfigurationError."""
    _check_served(stage, config, served)
    credentials = credentials_of(stage, config, warns=True)
    bound = bind_configured(stage, config, credentials)
    limits = replace(DEFAULT_LIMITS, adds_bytes_max=config.adds_bytes_max)
    metrics, hour = Metrics((*config.externals, *config.downstreams, *config.upstreams)), LastHour()
    report_dropped(metrics.lines_dropped)
    observer = telemetry.observer or _observer(config, telemetry.tracer_provider, metrics, hour)
    store = make_store(stage, config, metrics, served.seat)
    clock = SteadyClock(wall_of(store.ownership))
    watch = AuthorCodeWatch(make_suspects(config), metrics, stuck_seconds=config.stuck_seconds)
    participant = WatchedParticipant(bound, watch.code, _author_defects(observer))
    transport = Transport(store.ownership.assured)
    client = PeerClient(transport, clock=clock, observer=observer, answered=metrics.peer_answered)
    peers = _peers(client, config, credentials)
    engine = EmbeddedEngine(
        *(participant, store, peers, observer),
        clock=clock,
        limits=_engine_limits(config, limits),
        code=watch.code,
        redact=stage.redact,
        schedule=scheduler_of(config, store, stage.name),
    )
    admission = Admission(config.requests_max, callers=_shares(config))
    sources = Sources(
        queued=lambda: store.queued,
        breakers=lambda: client.breakers,
        speaks=lambda: store.ownership.share.first,
        files=lambda: _files(served.tls, credentials),
        places=lambda: _places(config, admission, engine),
    )
    gauges = Gauges(engine, clock, sources)
    bridge(metrics, gauges, telemetry.meter_provider, stage.name)
    service = Service(
        engine=engine,
        participant=participant,
        observer=observer,
        clock=clock,
        descriptor=_descriptor(stage, participant, config),
        limits=limits,
        neighbours=peers.neighbours,
        metrics=Exposition(metrics, gauges).write,
        lookups=Lookups(engine.seen),
        admission=admission,
        answered=metrics.answered,
        breakers=lambda: client.breakers,
        figures=lambda: _figures(hour.read(clock.now()), gauges, store),
        jitter=random,
        webhook_secrets=credentials.webhook_secrets,
        wait_seconds_max=config.wait_seconds_max,
        callers=callers_of(config),
        hosts=Hosts((config.host, *config.allowed_hosts.split(","))),
        reconcile=reconciling_of(config, participant, store, peers.neighbours, clock),
        newest_tasks=NewestTasks(store, clock),
        console=make_console(config.trace_url),
    )
    parts = (service, engine, store, transport, gauges, credentials, watch)
    return WiredStage(config, Rooms(*parts, tasks_of(config, stage.name)), served.seat)


def _check_served(stage: StageDeclaration[Any, Any], config: Config, served: Served) -> None:
    """Raises ConfigurationError for what `stage serve` alone can do."""
    if not served.listens:
        check_not_ours(config)
    if served.seat is None:
        refuse_workers(stage, config)


def _files(tls: ListenerTls | None, credentials: Credentials) -> tuple[FileState, ...]:
    """The files of certificates and credentials that are in use."""
    return (*(() if tls is None else tls.states()), *credentials.states())


def _figures(lately: Lately, gauges: Gauges, store: Store) -> Figures:
    replicas = store.ownership.share.replicas
    return Figures(lately=lately, places=tuple(gauges.sources.places()), replicas=replicas)


def _places(config: Config, admission: Admission, engine: EmbeddedEngine) -> tuple[Places, ...]:
    return (
        Places("requests", config.requests_max, admission.waiting),
        Places("sagas", config.concurrency_max, engine.live),
    )


def _peers(client: PeerClient, config: Config, credentials: Credentials) -> Peers:
    return http_peers(
        client,
        externals=config.externals,
        downstreams=config.downstreams,
        upstreams=config.upstreams,
        credentials=credentials,
        limits=_limits(config),
    )


def _seconds_of(days: float | None) -> float | None:
    return None if days is None else days * DAY


def _engine_limits(config: Config, wire: Limits) -> EngineLimits:
    return EngineLimits(
        sagas_max=config.concurrency_max,
        fast_path=not config.no_fast_path and config.engine == "embedded",
        deadline_seconds_default=config.deadline_seconds_default,
        compensation_window_seconds=config.compensation_window_seconds,
        answers_retention_seconds=_seconds_of(config.answers_retention_days),
        rows_retention_seconds=_seconds_of(config.rows_retention_days),
        audit_retention_seconds=_seconds_of(config.audit_retention_days),
        shares=_shares(config),
        wire=wire,
    )


def _shares(config: Config) -> Shares:
    return Shares(frozenset(config.upstreams), former_names(config.upstreams))


def _author_defects(observer: Observer) -> Report:
    """Reports what a function of the author raised; the ids of its trace are bound already."""
    return lambda saga_id, error: observer.defect("author", saga_id, TraceContext(), error)


def _observer(
    config: Config, tracer_provider: TracerProvider | None, *listeners: Listener
) -> Observer:
    keys = config.baggage_keys.split(",") if config.baggage_keys else ()
    return default_observer(
        tracer_provider, *listeners, baggage_keys=keys, exception_text=config.log_exception_text
    )


def _limits(config: Config) -> dict[str, PeerLimits]:
    """How much each peer gets, by kind and name (rule 29)."""
    kinds = {
        "externals": config.externals,
        "downstreams": config.downstreams,
        "upstreams": config.upstreams,
    }
    return {
        f"{kind}.{name}": _limits_of(connection_of(given))
        for kind, peers in kinds.items()
        for name, given in peers.items()
    }


def _limits_of(connection: Connection) -> PeerLimits:
    usual, places = PeerLimits(), connection.concurrency_max
    return PeerLimits(
        concurrency_max=usual.concurrency_max if places is None else places,
        rate_per_second=connection.rate_per_second,
    )


def _descriptor(
    stage: StageDeclaration[Any, Any], participant: Participant, config: Config
) -> Descriptor:
    plan = participant.plan
    return Descriptor(
        name=stage.name,
        accepts=stage.accepts.schema(),
        adds=stage.adds.schema() if stage.adds is not None else {},
        limits=replace(DEFAULT_LIMITS, adds_bytes_max=config.adds_bytes_max),
        compensation_window_seconds=config.compensation_window_seconds,
        answers_retention_seconds=_seconds_of(config.answers_retention_days),
        rows_retention_seconds=_seconds_of(config.rows_retention_days),
        pivot=None if plan.pivot is None else plan.steps[plan.pivot].name,
    )
