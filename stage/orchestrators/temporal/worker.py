"""The process that runs the workflows and activities of a chain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.service import TLSConfig
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from stage.core.errors import ConfigurationError
from stage.engine.clock import SteadyClock
from stage.engine.temporal import credentials as temporal_credentials
from stage.engine.temporal.credentials import FreshClient
from stage.inbound.accept_files import AcceptFile, TokenCallers
from stage.inbound.caller import Callers, Claims
from stage.inbound.principal import Kind, Principal
from stage.orchestrators.temporal.activities import ChainActivities
from stage.orchestrators.temporal.client import Chain
from stage.orchestrators.temporal.config import NONE, ChainConfig
from stage.orchestrators.temporal.door import Door
from stage.orchestrators.temporal.workflow import SagaChain
from stage.outbound.client import PeerClient
from stage.outbound.credentials import Credentials, PeerCredentials
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.connection import Connection, connection_of
from stage.telemetry import logs, sdk
from stage.telemetry.current import current_trace

SANDBOX = SandboxRestrictions.default.with_passthrough_modules("stage")
"""Without it the sandbox imports `stage` anew, and does not find one that is installed editable."""


class _NoTracebacks(logging.Filter):
    """The SDK logs a traceback for each failed attempt, and a refusal is not an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        record.exc_text = None
        return True


@asynccontextmanager
async def working(config: ChainConfig, fresh: FreshClient) -> AsyncIterator[Worker]:
    """Run a worker within. Raises ConfigurationError for credentials that cannot be read."""
    credentials = _credentials(config)
    await credentials.open()
    transport = Transport()
    await transport.open()
    try:
        peers = http_peers(
            PeerClient(transport, clock=SteadyClock()),
            externals={},
            upstreams={},
            downstreams=config.stages,
            credentials=credentials,
        )
        activities = ChainActivities(config.name, peers.neighbours, current_trace)
        worker = Worker(
            fresh.client,
            task_queue=config.task_queue,
            workflows=[SagaChain],
            activities=[activities.execute, activities.compensate],
            workflow_runner=SandboxedWorkflowRunner(restrictions=SANDBOX),
        )
        chain = Chain(fresh.client, list(config.stages), task_queue=config.task_queue)
        async with worker, _door(config, chain), _kept_fresh(fresh, worker, chain):
            yield worker
    finally:
        await transport.close()


@asynccontextmanager
async def _door(config: ChainConfig, chain: Chain) -> AsyncIterator[None]:
    """Open the door for late failures within, if the file has one."""
    if not config.listen:
        yield
        return
    callers = _callers(config)
    if isinstance(callers, TokenCallers):
        await callers.open()
    host, port = config.host_and_port
    try:
        async with Door(chain, config.stages, callers).open(host, port):
            yield
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {config.listen}: {error.strerror}") from None


@asynccontextmanager
async def _kept_fresh(fresh: FreshClient, worker: Worker, chain: Chain) -> AsyncIterator[None]:
    """Give the worker and the door each client that shows newer credentials, within."""

    async def refresh() -> None:
        while True:
            await asyncio.sleep(temporal_credentials.LOOK_SECONDS)
            if await fresh.refresh():
                worker.client = chain.client = fresh.client

    refreshing = asyncio.create_task(refresh())
    try:
        yield
    finally:
        refreshing.cancel()


def _callers(config: ChainConfig) -> Callers:
    if config.auth == NONE:
        return Claims()
    files = tuple(
        AcceptFile(
            place=f"stages.{name}",
            path=connection_of(given).accept_file,
            principal=Principal(kind=Kind.DOWNSTREAM, name=name),
        )
        for name, given in config.stages.items()
    )
    return TokenCallers(files, warn=_warn)


def fresh_client(config: ChainConfig) -> FreshClient:
    """A client of that server, whose calls are traced; it is still to be opened."""

    async def connect(*, tls: TLSConfig | None, api_key: str | None) -> Client:
        return await Client.connect(
            config.address,
            namespace=config.namespace,
            tls=tls,
            api_key=api_key,
            interceptors=[TracingInterceptor()],
        )

    return FreshClient(config.files, connect, warn=_warn_temporal)


async def serve(config: ChainConfig) -> None:
    """Work until SIGTERM or SIGINT; activities that run are then given to another worker."""
    logging.getLogger("temporalio.activity").addFilter(_NoTracebacks())
    sdk.setup(config.name, endpoint=config.otlp_endpoint or None)
    try:
        await _serve(config)
    finally:
        await asyncio.to_thread(sdk.shutdown)


async def _serve(config: ChainConfig) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    fresh = fresh_client(config)
    await fresh.open()
    async with working(config, fresh):
        logs.default_logger().info("worker_ready", task_queue=config.task_queue)
        await stopping.wait()


def _warn_temporal(detail: str) -> None:
    logs.default_logger().warning("temporal_away", detail=detail)


def _warn(detail: str) -> None:
    logs.default_logger().warning("credentials_file", detail=detail)


def _credentials(config: ChainConfig) -> Credentials:
    return Credentials(
        {},
        {
            name: PeerCredentials(f"stages.{name}", given, warn=_warn)
            for name, given in config.stages.items()
            if isinstance(given, Connection)
        },
    )
