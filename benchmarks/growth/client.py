"""A client of our own: sagas at a fixed rate, whether or not they are answered (open loop).

A latency counts from when the request was due, so that a stall is seen by all who would have
come meanwhile, and not only by the one that was stalled.
"""

from __future__ import annotations

import asyncio
import random
import time

import aiohttp

from benchmarks.growth.filling import uuid7
from benchmarks.open_loop import Answered

ORDER = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
ANSWER_SECONDS_MAX = 60.0


async def post_saga(session: aiohttp.ClientSession, url: str, saga_id: str) -> int:
    """The status of the answer; 0 when there was none."""
    envelope = {"saga_id": saga_id, "protocol": 1, "data": ORDER}
    try:
        async with session.post(f"{url}/sagas", json=envelope) as response:
            await response.read()
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


async def offer_at_rate(
    url: str, *, rate: float, until: asyncio.Event, dice: random.Random
) -> list[Answered]:
    """Offer so many sagas a second until told to stop; then wait for what is open."""
    answered: list[Answered] = []
    limits = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=limits) as session:

        async def one(due: float) -> None:
            status = await post_saga(session, url, uuid7(int(time.time() * 1e3), dice))
            answered.append(Answered(latency=time.monotonic() - due, status=status))

        began = time.monotonic()
        async with asyncio.TaskGroup() as requests:
            number = 0
            while not until.is_set():
                due = began + number / rate
                await asyncio.sleep(due - time.monotonic())
                requests.create_task(one(due))
                number += 1
    return answered


async def all_at_once(url: str, sagas: int, dice: random.Random) -> list[int]:
    """Offer so many sagas at the same time; their statuses."""
    limits = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=limits) as session:
        now = int(time.time() * 1e3)
        posts = (post_saga(session, url, uuid7(now, dice)) for _ in range(sagas))
        return await asyncio.gather(*posts)
