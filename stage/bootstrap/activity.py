"""The configured activity of Step Functions, if there is one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.inbound.activity import ActivityWorker, Tasks
from stage.inbound.service import Service
from stage.telemetry import logs

SDK_MISSING = "sfn_activity is set, which needs botocore: pip install 'saga-stage[sfn]'"


def tasks_of(config: Config, stage: str) -> Tasks | None:
    """The activity. Raises ConfigurationError."""
    if not config.sfn_activity:
        return None
    try:
        from stage.inbound.step_functions import ActivityTasks
    except ModuleNotFoundError:
        raise ConfigurationError(SDK_MISSING) from None
    return ActivityTasks(config.sfn_activity, f"{stage}@{socket.gethostname()}")


@asynccontextmanager
async def working(service: Service, tasks: Tasks | None, places: int) -> AsyncIterator[None]:
    """Take tasks while the context lasts."""
    if tasks is None:
        yield
        return
    worker = ActivityWorker(service, tasks, places=places, warn=_warn)
    at_work = asyncio.get_running_loop().create_task(worker.work())
    try:
        yield
    finally:
        at_work.cancel()
        await asyncio.gather(at_work, return_exceptions=True)


def _warn(detail: str) -> None:
    logs.default_logger().warning("step_functions_away", detail=detail)
