"""The figures computed from the measurements of growth."""

from __future__ import annotations

import asyncio
import random

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.growth.client import all_at_once, offer_at_rate
from benchmarks.growth.finished import CLOSING, EMPTY, FULL, Round, ratio
from benchmarks.growth.memory import slope


def a_round(database: str, rate: float) -> Round:
    return Round(database=database, round=0, rate=rate, p50=0.0, p99=0.0, closed=0, took=1.0)


def test_a_ratio_is_of_medians() -> None:
    """One bad round of one database changes nothing."""
    rounds = [a_round(EMPTY, rate) for rate in (100.0, 1.0, 110.0)]
    rounds += [a_round(FULL, rate) for rate in (90.0, 95.0, 500.0)]
    rounds += [a_round(CLOSING, 50.0)]
    assert 0.95 == ratio(rounds, FULL)
    assert 0.5 == ratio(rounds, CLOSING)


def test_the_slope_is_of_the_line_of_least_squares() -> None:
    """Noise on both sides of a line leaves the line."""
    points = [(float(x), 3.0 * x + 7.0 + (-1) ** x) for x in range(100)]
    assert 3.0 == pytest.approx(slope(points), abs=0.01)


def test_one_place_has_no_slope() -> None:
    """As when so few sagas were sent that memory was read once."""
    with pytest.raises(ValueError, match="two places"):
        slope([(1.0, 2.0), (1.0, 3.0)])


async def test_a_stall_is_seen_by_all_who_come_meanwhile() -> None:
    """The load is open: it goes on while nothing is answered, and waiting counts from when due."""
    asked, answers = asyncio.Event(), asyncio.Event()
    waiting = 0

    async def stall(request: web.Request) -> web.Response:
        nonlocal waiting
        await request.read()
        waiting += 1
        if waiting == 20:
            asked.set()
        await answers.wait()
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/sagas", stall)
    async with TestServer(app) as server:
        over = asyncio.Event()
        url = str(server.make_url("")).rstrip("/")
        offered = asyncio.create_task(
            offer_at_rate(url, rate=200.0, until=over, dice=random.Random(0))
        )
        await asked.wait()
        over.set()
        answers.set()
        answered = await offered
    assert len(answered) >= 20
    assert {200} == {each.status for each in answered}
    # The first was due about 95 ms before the twentieth.
    assert max(each.latency for each in answered) >= 19 / 200.0


async def test_no_answer_is_status_0() -> None:
    """Where nobody listens, nothing is raised: it is counted."""
    async with TestServer(web.Application()) as server:
        url = str(server.make_url("")).rstrip("/")
    assert [0, 0, 0] == await all_at_once(url, 3, random.Random(0))
