"""One caller cannot take it all (rule 37): places, joins, waits and tombstones."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from stage.engine.saga import tombstones
from stage.engine.saga.tombstones import Allowance
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
        assert 200 == (await chain.admitted("s-2"))[0]
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
            asyncio.create_task(chain.request("GET", url, Prefer="wait=25"))
            for _ in range(2 * PLACES)
        ]
        pending = set(waits)
        async with asyncio.timeout(20):
            while len(pending) > PLACES:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await chain.script(chain.shipping, script="accept")
        assert 200 == (await chain.send("s-2"))[0]
        for wait in pending:
            wait.cancel()
        await asyncio.wait(waits)


async def test_a_compensation_is_not_shed_with_the_starts(chain: Chain) -> None:
    """While no start is admitted it is done."""
    assert 200 == (await chain.send("s-1"))[0]
    assert chain.app is not None
    overload = chain.app[SERVICE].admission.overload
    overload.rate = 1e-9
    while overload.admits():
        pass
    status, headers, body = await chain.send("s-2", Idempotency_Key="s-2")
    assert (503, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
    assert 1 <= int(headers["Retry-After"]) <= 3
    overload.rate = 1e-9
    assert 200 == (await chain.compensate("s-1"))[0]
    assert (1, 0) == await chain.charges()


async def tombstoned(chain: Chain, by: str, count: int) -> list[int]:
    """The codes that one caller gets who compensates so many ids that nobody has seen."""
    return [
        (await chain.compensate(f"{by}-{n}", by=by, reason="x" * 1_000))[0] for n in range(count)
    ]


async def test_a_stranger_cannot_bar_ids_by_the_thousand(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few get a tombstone, the others 503 and nothing is written; upstream still leaves its own,
    and ids that were guessed in vain run."""
    monkeypatch.setattr(tombstones, "UNKNOWN", Allowance(burst=20.0, per_second=1e-6))
    codes = await tombstoned(chain, "guess", 100)
    assert {200, 503} == set(codes)
    assert 20 == codes.count(200)
    assert codes.index(503) == codes.count(200)
    assert 200 == (await chain.compensate("s-1", by="order"))[0]
    assert 410 == (await chain.send("s-1"))[0]
    assert 410 == (await chain.send("guess-0"))[0]
    assert 200 == (await chain.send("guess-99"))[0]
    status, headers, body = await chain.compensate("guess-98", by="another-guess")
    assert (503, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
    assert int(headers["Retry-After"]) >= 1


async def test_a_saga_that_was_seen_is_compensated_whatever_is_left(chain: Chain) -> None:
    """The allowance is for ids that were never seen alone, and tombstones are asked for free."""
    await chain.send("s-1")
    codes = await tombstoned(chain, "guess", 50)
    assert 503 == codes[-1]
    assert 200 == (await chain.compensate("guess-0", by="guess"))[0]
    assert 200 == (await chain.compensate("s-1", by="unknown"))[0]
    assert (1, 0) == await chain.charges()


async def test_a_tombstone_is_small(chain: Chain) -> None:
    """Its reason is cut: 9 KB each were kept for ever."""
    await chain.compensate("s-1", reason="\N{SNOWMAN}" * 1_000)
    view = await chain.view("s-1")
    assert 100 == len(view["reason"])
