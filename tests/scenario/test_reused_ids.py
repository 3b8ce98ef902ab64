"""One saga id used twice: with other data, and by another neighbour."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.scenario.chain import ORDER, Chain, running_chain

REUSED = "urn:saga-stage:problem:saga-id-reused"
NOT_YOURS = "urn:saga-stage:problem:not-your-saga"


def problem_of(body: bytes) -> tuple[Any, Any]:
    """The type of a problem and its outcome."""
    problem = msgspec.json.decode(body)
    return problem["type"], problem["outcome"]


async def test_a_reused_id_of_an_executed_saga_says_executed(chain: Chain) -> None:
    """Not `not_executed`: the caller would let a charge stand."""
    await chain.send("s-1")
    status, _, body = await chain.send("s-1", {**ORDER, "amount": 999})

    assert (422, (REUSED, "executed")) == (status, problem_of(body))
    assert (1, 1) == await chain.charges()


async def test_a_reused_id_of_a_compensated_saga_says_compensated(chain: Chain) -> None:
    """As it stands by then."""
    await chain.send("s-1")
    await chain.compensate("s-1")
    status, _, body = await chain.send("s-1", {**ORDER, "amount": 999})

    assert (422, (REUSED, "compensated")) == (status, problem_of(body))
    assert (1, 0) == await chain.charges()


async def test_a_reused_id_of_a_running_saga_says_in_progress(chain: Chain) -> None:
    """While downstream works on it, nobody knows how it ends."""
    await chain.script(chain.shipping, script="slow", seconds=0.5)
    assert 202 == (await chain.send("s-1", Prefer="respond-async"))[0]
    status, _, body = await chain.send("s-1", {**ORDER, "amount": 999})

    assert (422, (REUSED, "in_progress")) == (status, problem_of(body))
    await chain.until("s-1", lambda saga: saga["state"] == "completed")


@pytest.mark.parametrize("written", [b"100.0", b"1e2", b"1.0E+2", b"100"])
async def test_a_number_written_otherwise_is_the_same_payload(chain: Chain, written: bytes) -> None:
    """A retry through a library that writes 100.0 for 100 is replayed."""
    first = await chain.send("s-1")
    body = (
        b'{"saga_id":"s-1","data":{"order_id":"o-1","amount":' + written
        + b',"currency":"KRW"},"trail":[{"stage":"order","at":"2026-11-23T02:29:58.120Z"}]}'
    )  # fmt: skip
    status, headers, again = await chain.request("POST", f"{chain.stage}/sagas", body)

    assert (200, first[2], "true") == (status, again, headers["Idempotency-Replayed"])
    assert (1, 1) == await chain.charges()


async def test_another_upstream_does_not_get_the_answer_of_the_first(chain: Chain) -> None:
    """The same id and data from two upstreams: the second is refused, with no effect."""
    await chain.send("s-1", via="order")
    status, _, body = await chain.send("s-1", via="web")

    assert (403, (NOT_YOURS, "not_executed")) == (status, problem_of(body))
    assert (1, 1) == await chain.charges()


async def test_another_upstream_does_not_learn_of_a_running_saga(chain: Chain) -> None:
    """It joins nothing, whatever its data says."""
    await chain.script(chain.shipping, script="slow", seconds=0.5)
    assert 202 == (await chain.send("s-1", via="order", Prefer="respond-async"))[0]
    same = await chain.send("s-1", via="web")
    other = await chain.send("s-1", {**ORDER, "amount": 999}, via="web")

    assert [403, 403] == [same[0], other[0]]
    await chain.until("s-1", lambda saga: saga["state"] == "completed")


async def test_another_upstreams_compensate_does_not_undo_it(chain: Chain) -> None:
    """The saga of the first upstream stands, at rest and while it runs."""
    await chain.send("s-1", via="order")
    status, _, body = await chain.compensate("s-1", by="web")
    assert (403, (NOT_YOURS, "not_executed")) == (status, problem_of(body))

    await chain.script(chain.shipping, script="slow", seconds=0.5)
    assert 202 == (await chain.send("s-2", via="order", Prefer="respond-async"))[0]
    assert 403 == (await chain.compensate("s-2", by="web"))[0]

    await chain.until("s-2", lambda saga: saga["state"] == "completed")
    assert "completed" == (await chain.view("s-1"))["state"]
    assert (2, 2) == await chain.charges()


@pytest.mark.parametrize("by", ["order", "shipping", "operator", "operator kim"])
async def test_its_own_neighbours_and_operators_may_undo_it(chain: Chain, by: str) -> None:
    """The upstream that opened it, downstream, and an operator by name."""
    await chain.send("s-1", via="order")
    assert (await chain.compensate("s-1", by=by))[0] in (200, 202)
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await chain.charges()


async def test_a_stranger_learns_nothing_of_a_saga_that_is_undone_already(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request would change nothing, and is refused all the same, in memory and out of it."""
    monkeypatch.setattr("stage.engine.embedded.live_sagas.EVICT_AFTER_SECONDS", 0.0)
    await chain.send("s-1", via="order")
    await chain.script(chain.shipping, script="compensate-flaky")  # twice, with a second between
    await chain.compensate("s-1", by="order", Prefer="wait=0")
    while "compensation_delayed" not in await chain.events("s-1"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert 403 == (await chain.compensate("s-1", by="web"))[0]

    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert 403 == (await chain.compensate("s-1", by="web"))[0]
    assert (1, 0) == await chain.charges()


async def test_a_saga_whose_contents_were_dropped_still_belongs_to_who_opened_it(
    chain: Chain,
) -> None:
    """An operator closed it: its envelope is gone, and another upstream gets no answer of it."""
    first = await chain.send("s-1", via="order")
    order = msgspec.json.encode({"actor": "kim", "reason": "closed"})
    assert 200 == (await chain.request("POST", f"{chain.stage}/sagas/s-1/forget", order))[0]

    assert 403 == (await chain.send("s-1", via="web"))[0]
    assert first[2] == (await chain.send("s-1", via="order"))[2]


@pytest.mark.parametrize("verb", ["forget", "erase"])
async def test_a_stranger_does_not_learn_the_outcome_of_a_closed_saga(
    chain: Chain, verb: str
) -> None:
    """Its opener, of which a hash is kept, and downstream are told that nothing is undone."""
    await chain.send("s-1", via="order")
    order = msgspec.json.encode({"actor": "kim", "reason": "closed"})
    assert 200 == (await chain.request("POST", f"{chain.stage}/sagas/s-1/{verb}", order))[0]

    status, _, body = await chain.compensate("s-1", by="web")
    assert (403, False) == (status, b"executed" in body.replace(b"not_executed", b""))
    for by in ("order", "shipping", "operator"):
        status, _, body = await chain.compensate("s-1", by=by)
        assert (409, "executed") == (status, msgspec.json.decode(body)["outcome"])


async def test_a_downstream_configured_under_another_name_may_fail_late(tmp_path: Path) -> None:
    """It is known by the name under which it added to the saga; a third name is refused."""
    async with running_chain(tmp_path, shipping_calls_itself="parcels") as chain:
        await chain.script(chain.shipping, script="late-failure", seconds=0.05)
        assert 200 == (await chain.send("s-1", via="order"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert (1, 0) == await chain.charges()

        await chain.script(chain.shipping, script="accept")
        assert 200 == (await chain.send("s-2", via="order"))[0]
        assert 403 == (await chain.compensate("s-2", by="web"))[0]
        assert (2, 1) == await chain.charges()


async def test_another_upstream_is_refused_after_a_restart(tmp_path: Path) -> None:
    """The opener is read from the stored envelope."""
    async with running_chain(tmp_path) as chain:
        await chain.send("s-1", via="order")
    async with running_chain(tmp_path) as chain:
        assert 403 == (await chain.send("s-1", via="web"))[0]
        assert 403 == (await chain.compensate("s-1", by="web"))[0]
        assert "completed" == (await chain.view("s-1"))["state"]
