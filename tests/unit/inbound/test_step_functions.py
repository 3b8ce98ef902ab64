"""Words to Step Functions, whose answers a server on this machine gives."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator

import pytest

from stage.demo.chain import LOOPBACK, free_ports
from stage.inbound.activity import NotHeard, Tasks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("botocore") is None,
    reason="botocore is missing: pip install botocore",
)
ARN = "arn:aws:states:eu-west-1:123456789012:activity:payment"
SECRET = "x-amz-security-token:of-this-session"


class Aws:
    """Gives one answer to whatever it is asked; without one it hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self.asked = 0

    def answers(self, code: int, error: str, message: str = "") -> None:
        """Answer with this error from now on."""
        body = f'{{"__type":"{error}","message":"{message}"}}'.encode()
        head = f"HTTP/1.1 {code} X\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answer = head.encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1)
        self.asked += 1
        writer.write(self.answer)
        await writer.drain()
        writer.close()


def tasks_at(port: int, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    """Tasks of that port."""
    from stage.inbound.step_functions import ActivityTasks

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{LOOPBACK}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    return ActivityTasks(ARN, "payment@here")


World = tuple[Aws, Tasks]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    aws = Aws()
    server = await asyncio.start_server(aws.serve, LOOPBACK, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield aws, await asyncio.to_thread(tasks_at, port, monkeypatch)


async def test_an_end_whose_answer_is_lost_is_in_doubt(world: World) -> None:
    """It is said once, for behind an end that arrived the token counts no more."""
    aws, tasks = world
    with pytest.raises(OSError, match="closed") as raised:
        await tasks.succeed("t-1", "{}")
    assert not isinstance(raised.value, NotHeard)
    aws.answers(500, "InternalFailure")
    with pytest.raises(OSError, match="InternalFailure") as raised:
        await tasks.succeed("t-1", "{}")
    assert not isinstance(raised.value, NotHeard)
    assert 2 == aws.asked


async def test_a_refused_word_was_not_heard_and_its_error_shows_no_header(world: World) -> None:
    """AWS repeats what was signed where a signature does not match."""
    aws, tasks = world
    aws.answers(403, "InvalidSignatureException", SECRET)
    with pytest.raises(NotHeard, match="InvalidSignatureException") as raised:
        await tasks.beat("t-1")
    assert SECRET not in str(raised.value)
    with pytest.raises(NotHeard) as raised:
        await tasks.next()
    assert SECRET not in str(raised.value)


async def test_a_token_that_counts_no_more_is_no_error(world: World) -> None:
    """Its task timed out, or was stopped."""
    aws, tasks = world
    aws.answers(400, "TaskTimedOut")
    assert not await tasks.beat("t-1")


async def test_a_word_to_a_closed_port_was_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing left."""
    (port,) = free_ports(1)
    tasks = await asyncio.to_thread(tasks_at, port, monkeypatch)
    with pytest.raises(NotHeard):
        await tasks.fail("t-1", "Saga.Unknown", "")
