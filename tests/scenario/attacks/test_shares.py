"""One caller cannot take it all (rule 37): places, joins, waits and tombstones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.engine.saga import tombstones
from stage.engine.saga.tombstones import Allowance
from tests.scenario.chain import SERVICE, Chain, running_chain
from tests.waits import HANG_SECONDS

PLACES = 40
HANG = {"script": "hang"}


Sent = asyncio.Task[tuple[int, Any, bytes]]


@asynccontextmanager
async def hung(
    requests: Iterable[Coroutine[Any, Any, tuple[int, Any, bytes]]], places: int
) -> AsyncIterator[set[Sent]]:
    """Those that found no place, once no more than `places` of all requests wait."""
    sent = [asyncio.create_task(request) for request in requests]
    pending = set(sent)
    async with asyncio.timeout(HANG_SECONDS):
        while len(pending) > places:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    assert pending, "all were turned away: nothing holds a place"
    try:
        yield {*sent} - pending
    finally:
        for each in sent:
            each.cancel()
        await asyncio.wait(sent)


async def test_duplicates_of_a_hung_saga_keep_nobody_out(tmp_path: Path) -> None:
    """More of them than there are places: others are served, and nobody hears `not_executed`."""
    async with running_chain(tmp_path, requests_max=PLACES, drain_seconds=0.1) as chain:
        await chain.script(chain.shipping, **HANG)
        duplicates = (chain.send("s-1", Prefer="wait=25") for _ in range(2 * PLACES))
        async with hung(duplicates, PLACES) as refused:
            await chain.script(chain.shipping, script="accept")
            assert 200 == (await chain.admitted("s-2"))[0]
        answers = [each.result() for each in refused]
        assert {(503, "unknown")} == {
            (status, msgspec.json.decode(body)["outcome"]) for status, _, body in answers
        }
        assert (await chain.view("s-1"))["state"] in ("active", "completed")


async def test_names_that_nobody_configured_leave_half_of_the_places(tmp_path: Path) -> None:
    """A stranger's hung sagas do not keep out the upstream."""
    async with running_chain(tmp_path, requests_max=PLACES, drain_seconds=0.1) as chain:
        await chain.script(chain.shipping, **HANG)
        strangers = (chain.send(f"x-{n}", via=f"x{n}", Prefer="wait=25") for n in range(PLACES))
        async with hung(strangers, PLACES // 2) as refused:
            await chain.script(chain.shipping, script="accept")
            assert 200 == (await chain.send("s-1"))[0]
        assert {503} == {each.result()[0] for each in refused}


async def test_queries_that_wait_keep_no_saga_out(tmp_path: Path) -> None:
    """Beyond the limit they are answered at once; they take no place of a start."""
    async with running_chain(tmp_path, requests_max=PLACES, drain_seconds=0.1) as chain:
        await chain.script(chain.shipping, **HANG)
        assert 202 == (await chain.send("s-1", Prefer="respond-async"))[0]
        url = f"{chain.stage}/sagas/s-1"
        waits = (chain.request("GET", url, Prefer="wait=25") for _ in range(2 * PLACES))
        async with hung(waits, PLACES):
            await chain.script(chain.shipping, script="accept")
            assert 200 == (await chain.send("s-2"))[0]


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
