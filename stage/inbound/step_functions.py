"""An activity of AWS Step Functions, by botocore. Its calls block: each has a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ProxyConnectionError,
)
from botocore.session import get_session

from stage.inbound.activity import NotHeard, Task

POLL_SECONDS_MAX = 70
"""Step Functions holds a poll for a minute."""
WORD_SECONDS_MAX = 5
"""How long an attempt to connect, or an answer to a beat or an end, may take."""
CONNECTIONS_MAX = 64
NOT_SENT = (
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ProxyConnectionError,
)
SERVER_FAULT = 500
OVER = frozenset({"TaskTimedOut", "TaskDoesNotExist", "InvalidToken"})
"""The errors of a token that counts no more."""


class ActivityTasks:
    """inbound.activity.Tasks. Credentials and proxies are those of every program of AWS."""

    def __init__(self, arn: str, name: str) -> None:
        """`arn` is that of the activity, `name` that of this worker in its history."""
        self._arn = arn
        self._name = name[:80]
        region, session = arn.split(":")[3], get_session()
        self._polls: Any = session.create_client(
            "stepfunctions",
            region_name=region,
            config=Config(connect_timeout=WORD_SECONDS_MAX, read_timeout=POLL_SECONDS_MAX),
        )
        # It repeats nothing by itself: behind a word that arrived, a repeat is told that the token
        # counts no more, which would pass for a time-out.
        once = Config(
            connect_timeout=WORD_SECONDS_MAX,
            read_timeout=WORD_SECONDS_MAX,
            max_pool_connections=CONNECTIONS_MAX,
            retries={"total_max_attempts": 1},
        )
        self._words: Any = session.create_client("stepfunctions", region_name=region, config=once)

    async def next(self) -> Task | None:
        """See `Tasks`."""
        try:
            found = await _in_thread(
                lambda: self._polls.get_activity_task(activityArn=self._arn, workerName=self._name)
            )
        except (BotoCoreError, ClientError) as error:
            raise _mapped(error) from error
        token = found.get("taskToken")
        return Task(token=token, given=found.get("input", "{}")) if token else None

    async def beat(self, token: str) -> bool:
        """See `Tasks`."""
        return await _counts(lambda: self._words.send_task_heartbeat(taskToken=token))

    async def succeed(self, token: str, output: str) -> bool:
        """See `Tasks`."""
        return await _counts(lambda: self._words.send_task_success(taskToken=token, output=output))

    async def fail(self, token: str, error: str, cause: str) -> bool:
        """See `Tasks`."""
        return await _counts(
            lambda: self._words.send_task_failure(taskToken=token, error=error, cause=cause)
        )


async def _counts(call: Callable[[], Any]) -> bool:
    """Call; False when the token counts no more. Raises as `Tasks` does."""
    try:
        await _in_thread(call)
    except ClientError as error:
        if error.response["Error"]["Code"] in OVER:
            return False
        raise _mapped(error) from error
    except BotoCoreError as error:
        raise _mapped(error) from error
    return True


def _mapped(error: BotoCoreError | ClientError) -> OSError:
    """The error as `Tasks` has it. The text of AWS may repeat the headers that were signed."""
    if not isinstance(error, ClientError):
        return NotHeard(str(error)) if isinstance(error, NOT_SENT) else OSError(str(error))
    detail = f"{error.operation_name} was answered {error.response['Error']['Code']}"
    answered = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return NotHeard(detail) if answered < SERVER_FAULT else OSError(detail)


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
