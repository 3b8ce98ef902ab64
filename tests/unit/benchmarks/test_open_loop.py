"""The load at a fixed rate: it goes on without answers, and counts from when a request was due."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.open_loop import NO_ANSWER, Answered, offer_at_rate, percentile

Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def offered(
    endpoint: Endpoint, *, rate: float, seconds: float, connections_max: int = 64
) -> list[Answered]:
    """The answers that it sees of a server with that endpoint."""
    app = web.Application()
    app.router.add_post("/sagas", endpoint)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        return await asyncio.to_thread(
            offer_at_rate,
            [url],
            rate=rate,
            seconds=seconds,
            run="t",
            connections_max=connections_max,
        )


async def test_requests_go_on_while_none_is_answered() -> None:
    """The server answers the first one only when it has all of them; each has an id of its own."""
    seen: set[str] = set()
    all_came = asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        seen.add((await request.json())["saga_id"])
        if len(seen) == 20:
            all_came.set()
        await all_came.wait()
        return web.json_response({})

    answers = await offered(hold, rate=1_000.0, seconds=0.02)

    assert [200] * 20 == [each.status for each in answers]
    assert {f"t-{number}" for number in range(20)} == seen


async def test_a_stall_counts_for_all_who_were_due_meanwhile() -> None:
    """One connection, whose first answer comes when the last request was due long ago.

    A loop that waits for its answer would see one slow request and nineteen quick ones.
    """
    rate, requests = 100.0, 20
    arrived: list[float] = []
    released: list[float] = []

    async def stall(request: web.Request) -> web.Response:
        if not arrived:
            arrived.append(time.monotonic())
            await asyncio.sleep(2 * requests / rate)  # the stall itself
            released.append(time.monotonic())
        return web.json_response({})

    answers = await offered(stall, rate=rate, seconds=requests / rate, connections_max=1)

    assert requests == len(answers)
    for number, each in enumerate(answers):
        due = arrived[0] + number / rate  # or before: the first was due before it arrived
        assert each.latency >= released[0] - due


async def test_the_rate_is_that_of_the_schedule() -> None:
    """As many as fit, however quickly they are answered."""

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({})

    began = time.monotonic()
    answers = await offered(answer, rate=200.0, seconds=0.1)

    assert 20 == len(answers)
    assert time.monotonic() - began >= 19 / 200.0


async def test_other_answers_and_none_are_seen() -> None:
    """A status is kept as it is; a server that hangs up has not answered."""

    async def refuse(request: web.Request) -> web.StreamResponse:
        saga_id = (await request.json())["saga_id"]
        if saga_id == "t-1":
            assert request.transport is not None
            request.transport.close()
        return web.json_response({}, status=409)

    answers = await offered(refuse, rate=100.0, seconds=0.04)

    assert [NO_ANSWER, 409, 409, 409] == sorted(each.status for each in answers)


async def test_an_answer_without_its_length_is_refused() -> None:
    """Its end would not be known."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{}")
        await response.write_eof()
        return response

    with pytest.raises(ValueError, match="Content-Length"):
        await offered(stream, rate=100.0, seconds=0.01)


@pytest.mark.parametrize(
    "percent, expected", [(50, 50.0), (99, 99.0), (99.5, 100.0), (100, 100.0), (0, 1.0)]
)
def test_percentiles_are_of_the_nearest_rank(percent: float, expected: float) -> None:
    """They are values that were seen."""
    values = [float(number) for number in range(100, 0, -1)]
    assert expected == percentile(values, percent)


def test_nothing_has_no_percentile() -> None:
    """A measurement without a value must not pass as a fast one."""
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 99)
