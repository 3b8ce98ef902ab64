"""A process that serves one stage: signals, the event loop, the garbage collector, the SDK."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from aiohttp import web

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap.callers import check_loopback
from stage.bootstrap.descriptors import check_descriptors, connections_max
from stage.bootstrap.exit_guard import EXIT_SECONDS_MAX, ExitGuard
from stage.bootstrap.listener import listener_tls
from stage.bootstrap.process_log import announce, log_drain, log_end, log_start
from stage.bootstrap.seat import Seat
from stage.bootstrap.together import TOGETHER
from stage.bootstrap.wiring import Served, build_app
from stage.bootstrap.workers import READY, UP, Orders, file_set_of, serve_workers
from stage.config import Config, local_socket
from stage.core.errors import ConfigurationError
from stage.inbound.aiohttp import DOORS, SERVICE, Doors
from stage.inbound.aiohttp_connection import ServerLimits
from stage.inbound.aiohttp_runner import BoundedRunner
from stage.inbound.aiohttp_server import Reports
from stage.inbound.local import open_socket
from stage.ports.file_errors import said
from stage.telemetry import logs, sdk
from stage.telemetry.streams import open_streams

LogFormat = Literal["json", "console", "auto"]
NOT_SERVED = "the stage cannot be served"
LISTEN_BACKLOG = 1024
GC_OBJECTS_MIN = 20_000
"""New containers between two collections: Python's 700 are made by less than one saga."""


def serve(stage: StageDeclaration[Any, Any], config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return. Raises ConfigurationError."""
    open_streams()
    logs.configure(format=cast(LogFormat, config.log_format), level=config.log_level)
    check_descriptors()
    with said(NOT_SERVED):
        if config.workers > 1 or file_set_of(stage, config) is not None:
            serve_workers(stage, config, partial(serve_one, stage))
        else:
            serve_one(stage, config)


def serve_one(
    stage: StageDeclaration[Any, Any],
    config: Config,
    seat: Seat | None = None,
    orders: Orders | None = None,
) -> None:
    """Serve in this process, as one of several workers where it has a `seat` among them."""
    service_name = config.service_name or stage.name
    sdk.setup(service_name, endpoint=config.otlp_endpoint)
    sdk.setup_metrics(service_name, endpoint=config.otlp_endpoint)
    try:
        with said(NOT_SERVED), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(stage, config, seat, orders))
        log_end(stage.name)
    finally:
        sdk.shutdown()


# Long because it is the life of a process, from its first signal handler to its last.
async def _serve(
    stage: StageDeclaration[Any, Any], config: Config, seat: Seat | None, orders: Orders | None
) -> None:
    started, stopping = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    # Before anything is awaited: the kernel keeps a signal that nobody listens to from the first
    # process of a container.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, partial(_hear, started, stopping))
    check_loopback(config)
    tls = listener_tls(config)
    if tls is not None:
        await tls.open()
    app = build_app(stage, config, served=Served(listens=True, tls=tls, seat=seat))
    limits = ServerLimits(connections_max=connections_max(config))
    reports = Reports(logs.report_turned_away, logs.report_handshakes_failed)
    runner = BoundedRunner(app, limits, reports, tls)
    latest = config.drain_delay_seconds + config.drain_seconds + EXIT_SECONDS_MAX
    of = None if orders is None else orders.parent
    ExitGuard(latest, logs.report_forced_exit, parent=of).start()
    parent = None if orders is None else Parent(orders, partial(_hear, started, stopping))
    await runner.setup()
    started.set()
    beside: Path | None = None
    try:
        log_start(stage.name, config)
        _collect_rarely()
        beside = await _listen_beside(runner, config, app[DOORS])
        if parent is None:
            port = await _listen(runner, config, app[DOORS])
            announce(config, port, app[DOORS].admin_port)
        elif (ports := await parent.ports(stopping)) is not None:
            await app[TOGETHER].meet()  # so that it is ready when it listens
            if seat is None or seat.takes_sagas:
                config = replace(config, port=ports[0], admin_port=ports[1])
                await _listen(runner, config, app[DOORS], among=True)
            parent.report_ready()
        await stopping.wait()
        log_drain(app[SERVICE].engine.live, config)
        # Not ready at once, serving on until the load balancer has seen it.
        app[SERVICE].engine.leave_rotation()
        runner.retire()
        await asyncio.sleep(config.drain_delay_seconds)
    finally:
        if beside is not None:
            with suppress(OSError):  # its folder may be gone, or read-only by now
                beside.unlink()  # before the lock is let go: then it is another's
        await runner.cleanup()


def _hear(started: asyncio.Event, stopping: asyncio.Event) -> None:
    """End a stage that serves in order, and one that is still starting at once.

    A start may wait for the database for an hour. Nothing has been answered yet, and every step of
    a start survives a kill; to cancel it would release the lock under a migration in a thread. The
    default action of the signal would not do: the kernel keeps it from the first process of a
    container.
    """
    if started.is_set():
        stopping.set()
    else:
        os._exit(0)


class Parent:
    """The parent of a worker, as that hears it in its event loop."""

    def __init__(self, orders: Orders, gone: Callable[[], None]) -> None:
        """`gone` is called when the parent is not there any more."""
        self._orders = orders
        self._gone = gone
        self._heard = b""
        self._answered = asyncio.Event()
        asyncio.get_running_loop().add_reader(orders.heard, self._read)

    def _read(self) -> None:
        said = os.read(self._orders.heard, 4096)
        self._heard += said
        if self._heard.endswith(b"\n"):
            self._answered.set()
        if not said:
            asyncio.get_running_loop().remove_reader(self._orders.heard)
            self._gone()

    async def ports(self, stopping: asyncio.Event) -> tuple[int, int | None] | None:
        """The ports to listen on, once every worker has its database; None where it is to stop."""
        self._orders.tell(UP)
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(each.wait()) for each in (self._answered, stopping)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        if not self._answered.is_set():
            return None
        port, admin_port = json.loads(self._heard.splitlines()[0])
        return port, admin_port

    def report_ready(self) -> None:
        """It listens."""
        self._orders.tell(READY)


async def _listen(
    runner: BoundedRunner, config: Config, doors: Doors, *, among: bool = False
) -> int:
    """Open the port, whose number it returns, and the admin port where there is one.

    `among` other workers that open the same ones.
    """
    # So many may be accepted at once, before any of them can be turned away.
    backlog = min(LISTEN_BACKLOG, connections_max(config) // 4)
    if config.admin_port is not None:
        doors.admin_port = await _listen_at(
            runner, (config.host, config.admin_port), backlog, "--admin-port", among=among
        )
    return await _listen_at(runner, (config.host, config.port), backlog, "--port", among=among)


async def _listen_at(
    runner: BoundedRunner, at: tuple[str, int], backlog: int, option: str, *, among: bool
) -> int:
    """Open one port and return its number. Raises ConfigurationError."""
    host, port = at
    try:
        return await runner.listen(host, port, backlog, among=among)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # asyncio's repeats the address
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {why}: choose another {option}, or stop what uses it"
        ) from error


async def _listen_beside(runner: web.AppRunner, config: Config, doors: Doors) -> Path | None:
    """Open the socket beside the database, for operators on this machine; its path.

    None for a database in memory, and where the system allows no socket there.
    """
    path = local_socket(config.database)
    if path is None:
        return None
    try:
        opened = open_socket(path)
    except OSError as error:
        logs.default_logger().warning(
            "no_local_socket",
            detail=f"{path}: {error.strerror or error}; operators on this machine need a token",
        )
        return None
    doors.beside = opened.getsockname()  # as each of its connections says it
    await web.SockSite(runner, opened).start()
    return path


def _collect_rarely() -> None:
    """Keep the objects of the start for good; those of a saga mostly die with it, uncollected."""
    gc.freeze()
    gc.set_threshold(GC_OBJECTS_MIN)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed (the extra `fast`), otherwise that of asyncio."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return made
