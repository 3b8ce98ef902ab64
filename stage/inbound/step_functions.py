"""An activity of AWS Step Functions, by botocore. Its calls block: each has a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from stage.inbound.activity import Task

POLL_SECONDS_MAX = 70
"""Step Functions holds a poll for a minute."""
CONNECTIONS_MAX = 64
OVER = frozenset({"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"})
"""The errors of a token that counts no more."""


class ActivityTasks:
    """inbound.activity.Tasks. Credentials and proxies are those of every program of AWS."""

    def __init__(self, arn: str, name: str) -> None:
        """`arn` is that of the activity, `name` that of this worker in its history."""
        self._arn = arn
        self._name = name[:80]
        config = Config(read_timeout=POLL_SECONDS_MAX, max_pool_connections=CONNECTIONS_MAX)
        self._client: Any = get_session().create_client(
            "stepfunctions", region_name=arn.split(":")[3], config=config
        )

    async def next(self) -> Task | None:
        """See `Tasks`."""
        found = await _in_thread(
            lambda: self._client.get_activity_task(activityArn=self._arn, workerName=self._name)
        )
        token = found.get("taskToken")
        return Task(token=token, given=found.get("input", "{}")) if token else None

    async def beat(self, token: str) -> bool:
        """See `Tasks`."""
        return await _counts(lambda: self._client.send_task_heartbeat(taskToken=token))

    async def succeed(self, token: str, output: str) -> bool:
        """See `Tasks`."""
        return await _counts(lambda: self._client.send_task_success(taskToken=token, output=output))

    async def fail(self, token: str, error: str, cause: str) -> bool:
        """See `Tasks`."""
        return await _counts(
            lambda: self._client.send_task_failure(taskToken=token, error=error, cause=cause)
        )


async def _counts(call: Callable[[], Any]) -> bool:
    """Call; False when the token counts no more. Raises OSError for what may be tried again."""
    try:
        await _in_thread(call)
    except ClientError as error:
        if error.response["Error"]["Code"] in OVER:
            return False
        raise OSError(str(error)) from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    return True


async def _in_thread(call: Callable[[], Any]) -> Any:
    """Call in a thread that does not hold up the end of the process, as those of a pool do."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return  # cancelled: nobody waits for it
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = call()
        except Exception as error:
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, name="stage-activity", daemon=True).start()
    return await future
