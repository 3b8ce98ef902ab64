"""One caller cannot take it all (rule 37): places, joins, waits and tombstones."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from tests.scenario.chain import SERVICE, Chain, running_chain

PLACES = 40
HANG = {"script": "hang"}


async def joined(chain: Chain, saga_id: str, count: int) -> list[asyncio.Task[tuple[int, bytes]]]:
    async def send() -> tuple[int, bytes]:
        status, _, body = await chain.send(saga_id, Prefer="wait=2")
        return status, body

    tasks = [asyncio.create_task(send()) for _ in range(count)]
    await asyncio.sleep(0.5)
    return tasks


async def test_duplicates_of_a_hung_saga_keep_nobody_out(tmp_path: Path) -> None:
    """More of them than there are places: others are served, and nobody hears `not_executed`."""
    async with running_chain(tmp_path, requests_max=PLACES, drain_seconds=0.1) as chain:
        await chain.script(chain.shipping, **HANG)
        duplicates = await joined(chain, "s-1", 2 * PLACES)
        await chain.script(chain.shipping, script="accept")
        assert 200 == (await chain.send("s-2"))[0]
        answers = await asyncio.gather(*duplicates)
        refused = [msgspec.json.decode(body) for status, body in answers if status == 503]
        assert refused, answers
        assert {"unknown"} == {problem["outcome"] for problem in refused}
        assert (await chain.view("s-1"))["state"] in ("active", "completed")


async def test_names_that_nobody_configured_leave_half_of_the_places(tmp_path: Path) -> None:
    """A stranger's hung sagas do not keep out the upstream."""
    async with running_chain(tmp_path, requests_max=PLACES, drain_seconds=0.1) as chain:
        await chain.script(chain.shipping, **HANG)
        hung = [
            asyncio.create_task(chain.send(f"x-{n}", via=f"x{n}", Prefer="wait=3"))
            for n in range(PLACES)
        ]
        await asyncio.sleep(0.5)
        await chain.script(chain.shipping, script="accept")
        assert 200 == (await chain.send("s-1"))[0]
        statuses = [answer[0] for answer in await asyncio.gather(*hung)]
        assert statuses.count(503) >= PLACES // 2


async def test_queries_that_wait_keep_no_saga_out(tmp_path: Path) -> None:
    """Beyond the limit they are answered at once; they take no place of a start."""
    async with running_chain(tmp_path, requests_max=PLACES, drain_seconds=0.1) as chain:
        await chain.script(chain.shipping, **HANG)
        await chain.send("s-1", Prefer="respond-async")
        url = f"{chain.stage}/sagas/s-1"
        waits = [
            asyncio.create_task(chain.request("GET", url, Prefer="wait=3"))
            for _ in range(2 * PLACES)
        ]
        await asyncio.sleep(0.5)
        assert sum(wait.done() for wait in waits) >= PLACES
        await chain.script(chain.shipping, script="accept")
        assert 200 == (await chain.send("s-2"))[0]
        await asyncio.gather(*waits)


async def test_a_compensation_is_not_shed_with_the_starts(chain: Chain) -> None:
    """While no start is admitted it is done within a second."""
    assert 200 == (await chain.send("s-1"))[0]
    assert chain.app is not None
    overload = chain.app[SERVICE].admission.overload
    overload.rate = 1e-9
    status, headers, body = await chain.send("s-2")
    assert (503, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
    assert 1 <= int(headers["Retry-After"]) <= 3
    began = time.monotonic()
    overload.rate = 1e-9
    assert 200 == (await chain.compensate("s-1"))[0]
    assert 1.0 > time.monotonic() - began
    assert (1, 0) == await chain.charges()
