"""Puts a stage together: the one place that knows every room. Nothing happens at import."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, cast

from aiohttp import web
from msgspec.structs import replace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from stage.authoring.stage import BoundStage, Stage
from stage.config import Config, load
from stage.core.errors import ConfigurationError
from stage.core.steps import Step, StepKind
from stage.engine.clock import SystemClock
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.limits import EngineLimits
from stage.inbound.admission import Admission
from stage.inbound.app import EDGE, Edge, make_app
from stage.outbound.links import HttpLinks
from stage.outbound.transport import Transport
from stage.ports.observer import Observer, TraceContext
from stage.ports.store import Store
from stage.store.memory import MemoryStore
from stage.store.migrate import Migration, MigrationStatus
from stage.store.sqlite import dialect
from stage.store.sqlite.lock import FileLock
from stage.store.sqlite.store import SqliteStore
from stage.telemetry import logs, sdk
from stage.telemetry.compose import default_observer
from stage.telemetry.exposition import Exposition
from stage.telemetry.gauges import Gauges
from stage.telemetry.meters import bridge
from stage.telemetry.metrics import Metrics
from stage.wire.descriptor import Descriptor
from stage.wire.limits import DEFAULT_LIMITS

LogFormat = Literal["json", "console", "auto"]
SQLITE = "sqlite:///"
MEMORY = ":memory:"
LINGERING_SECONDS = 1.0
"""How long what is left of a refused body is read, before the connection is closed."""


GC_OBJECTS_MIN = 20_000
"""New containers between two collections: Python's 700 are made by less than one saga."""


def build_app(
    stage: Stage[Any, Any],
    config: Config,
    *,
    observer: Observer | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> web.Application:
    """The application of one stage, for `web.run_app`, a server of your own, or `add_subapp`.

    Spans are made by the `tracer_provider` and metrics by the `meter_provider`, else by those of
    the process. An `observer` takes the place of all that is told.

    Raises DeclarationError and ConfigurationError with the fix in the message.
    """
    bound = stage.bind(tuple(config.downstreams), adjust=lambda step: _adjusted(step, config))
    _check_externals(stage, bound, config)
    metrics = Metrics()
    store = make_store(stage, config, metrics)
    watching = (
        observer
        if observer is not None
        else default_observer(
            tracer_provider,
            metrics,
            baggage_keys=config.baggage_keys.split(",") if config.baggage_keys else (),
        )
    )
    transport = Transport()
    links = HttpLinks(
        transport,
        externals=config.externals,
        downstreams=config.downstreams,
        upstreams=config.upstreams,
        observer=watching,
    )
    clock = SystemClock()
    engine = EmbeddedEngine(
        bound,
        store,
        links,
        watching,
        clock=clock,
        limits=EngineLimits(
            sagas_max=config.concurrency_max,
            compensation_window_seconds=config.compensation_window_seconds,
        ),
    )
    gauges = Gauges(
        engine,
        clock,
        queued=lambda: store.queued if isinstance(store, SqliteStore) else 0,
        breakers=lambda: links.breakers,
    )
    bridge(metrics, gauges, meter_provider, stage.name)
    app = make_app()
    app[EDGE] = Edge(
        engine=engine,
        participant=bound,
        observer=watching,
        clock=clock,
        descriptor=_descriptor(stage, bound, config),
        limits=DEFAULT_LIMITS,
        neighbours=links,
        metrics=Exposition(metrics, gauges).write,
        admission=Admission(config.requests_max),
        wait_seconds_max=config.wait_seconds_max,
    )

    async def lifetime(_app: web.Application) -> AsyncIterator[None]:
        await store.open()
        try:
            await transport.open()
            try:
                await engine.start()
                fresh = asyncio.get_running_loop().create_task(
                    gauges.keep_fresh(partial(watching.defect, "watch", "", TraceContext()))
                )
                try:
                    yield
                finally:
                    fresh.cancel()
            finally:
                await engine.drain(0.0)
                await transport.close()
        finally:
            await store.close()

    async def drain(_app: web.Application) -> None:
        await engine.drain(config.drain_seconds)

    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(drain)
    return app


def application_from_environment(
    stage: Stage[Any, Any],
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> web.Application:
    """The application, configured from `STAGE_…` alone; what `Stage.app` returns."""
    return build_app(
        stage,
        load({}, os.environ, None),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )


def serve(stage: Stage[Any, Any], config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return."""
    logs.configure(format=cast(LogFormat, config.log_format), level=config.log_level)
    sdk.setup(config.name or stage.name, endpoint=config.otlp_endpoint)
    sdk.setup_metrics(config.name or stage.name, endpoint=config.otlp_endpoint)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(stage, config))
    finally:
        sdk.shutdown()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (the extra `fast`), else that of asyncio."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return made


async def _serve(stage: Stage[Any, Any], config: Config) -> None:
    app = build_app(stage, config)
    runner = web.AppRunner(
        app, handle_signals=False, access_log=None, lingering_time=LINGERING_SECONDS
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await runner.setup()
    # What is here now stays for good; what a saga makes mostly dies with it, without a collection.
    gc.freeze()
    gc.set_threshold(GC_OBJECTS_MIN)
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {config.host}:{config.port}: {error.strerror or error}:"
                " choose another --port, or stop what uses it"
            ) from error
        port = runner.addresses[0][1]
        print(f"listening on http://{config.host}:{port}", flush=True)
        await stopping.wait()
        engine = app[EDGE].engine
        engine.leave_rotation()  # not ready at once, serving on until the load balancer has seen it
        await asyncio.sleep(config.drain_delay_seconds)
    finally:
        await runner.cleanup()


def make_store(stage: Stage[Any, Any], config: Config, metrics: Metrics | None = None) -> Store:
    """The store that the database URL names. Raises ConfigurationError."""
    committed = None if metrics is None else metrics.committed
    name = _sqlite_name(config)
    if name == MEMORY:
        return MemoryStore(migrations=_folders(stage))
    return SqliteStore(Path(name), migrations=_folders(stage), committed=committed)


class Migrations:
    """The migrations of one SQLite file, ours and the author's: a context manager.

    It holds the file's lock, so that nobody serves from the file meanwhile.
    """

    def __init__(self, path: Path, folders: tuple[Path, ...]) -> None:
        self._folders = folders
        self._lock = FileLock(path)
        self._path = path

    def __enter__(self) -> Self:
        self._lock.acquire()
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._lock.release()

    def status(self) -> list[MigrationStatus]:
        """Every migration with its state."""
        return dialect.status(self._connection, self._folders)

    def sql(self) -> str:
        """The text of all that are pending."""
        return dialect.pending_sql(self._connection, self._folders)

    def upgrade(self) -> list[Migration]:
        """Apply what is pending; what was applied. Raises ConfigurationError."""
        return dialect.upgrade(self._connection, self._folders, now=SystemClock().now())


def open_migrations(stage: Stage[Any, Any], config: Config) -> Migrations:
    """The migrations of the configured database. Raises ConfigurationError."""
    name = _sqlite_name(config)
    if name == MEMORY:
        raise ConfigurationError(f"database {config.database!r} is new at each start: name a file")
    return Migrations(Path(name).absolute(), _folders(stage))


def _folders(stage: Stage[Any, Any]) -> tuple[Path, ...]:
    return () if stage.migrations is None else (stage.migrations,)


def _sqlite_name(config: Config) -> str:
    if not config.database.startswith(SQLITE):
        raise ConfigurationError(f"database {config.database!r} is not known: use sqlite:///FILE")
    return config.database.removeprefix(SQLITE)


def _adjusted(step: Step, config: Config) -> Step:
    """The step with what the operator has set."""
    execution, compensation = step.execution, step.compensation
    timeout = step.timeout_seconds
    if step.kind is StepKind.FORWARD:
        execution = replace(execution, attempts_max=config.forward_attempts_max)
        timeout = config.forward_timeout_seconds
    else:
        if config.attempts_max is not None:
            execution = replace(execution, attempts_max=config.attempts_max)
        if config.compensation_attempts_max is not None:
            compensation = replace(compensation, attempts_max=config.compensation_attempts_max)
        if config.external_timeout_seconds_max is not None:
            timeout = min(timeout, config.external_timeout_seconds_max)
    return replace(step, execution=execution, compensation=compensation, timeout_seconds=timeout)


def _check_externals(stage: Stage[Any, Any], bound: BoundStage[Any, Any], config: Config) -> None:
    wanted = {step.peer for step in bound.plan.steps if step.kind.value == "call"}
    missing = sorted(wanted - set(config.externals))
    if missing:
        options = " ".join(f"--external {name}=URL" for name in missing)
        raise ConfigurationError(
            f"stage {stage.name!r} calls {', '.join(missing)}, which no option names: add {options}"
        )


def _descriptor(stage: Stage[Any, Any], bound: BoundStage[Any, Any], config: Config) -> Descriptor:
    pivot = None if bound.plan.pivot is None else bound.plan.steps[bound.plan.pivot].name
    return Descriptor(
        name=stage.name,
        accepts=stage.accepts.schema(),
        adds=stage.adds.schema() if stage.adds is not None else {},
        limits=DEFAULT_LIMITS,
        compensation_window_seconds=config.compensation_window_seconds,
        pivot=pivot,
    )
