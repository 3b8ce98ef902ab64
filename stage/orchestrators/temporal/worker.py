"""The process that runs the workflows and activities of a chain."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.worker import Worker

from stage.engine.clock import SteadyClock
from stage.orchestrators.temporal.activities import ChainActivities
from stage.orchestrators.temporal.config import ChainConfig
from stage.orchestrators.temporal.workflow import SagaChain
from stage.outbound.client import PeerClient
from stage.outbound.credentials import Credentials, PeerCredentials
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.connection import Connection
from stage.telemetry import logs
from stage.telemetry.current import current_trace


class _NoTracebacks(logging.Filter):
    """The SDK logs a traceback for each failed attempt, and a refusal is not an error."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        record.exc_text = None
        return True


@asynccontextmanager
async def working(config: ChainConfig, client: Client) -> AsyncIterator[Worker]:
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
            client,
            task_queue=config.task_queue,
            workflows=[SagaChain],
            activities=[activities.execute, activities.compensate],
        )
        async with worker:
            yield worker
    finally:
        await transport.close()


async def connect(config: ChainConfig) -> Client:
    """A client of that server, whose calls are traced. Raises RuntimeError when it is away."""
    return await Client.connect(
        config.address, namespace=config.namespace, interceptors=[TracingInterceptor()]
    )


async def serve(config: ChainConfig) -> None:
    """Work until SIGTERM or SIGINT; activities that run are then given to another worker."""
    logging.getLogger("temporalio.activity").addFilter(_NoTracebacks())
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with working(config, await connect(config)):
        logs.default_logger().info("worker_ready", task_queue=config.task_queue)
        await stopping.wait()


def _credentials(config: ChainConfig) -> Credentials:
    def warn(detail: str) -> None:
        logs.default_logger().warning("credentials_file", detail=detail)

    return Credentials(
        {},
        {
            name: PeerCredentials(f"stages.{name}", given, warn=warn)
            for name, given in config.stages.items()
            if isinstance(given, Connection)
        },
    )
