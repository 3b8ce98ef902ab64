"""The context of a saga: what may be in it, how large it is, and until when it holds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.wire.envelope import ENVELOPE_GROWTH_BYTES, Envelope, TrailEntry, encode_envelope
from stage.wire.limits import DEFAULT_LIMITS
from tests.scenario.chain import AT, ORDER, Chain, running_chain

NOISE_SECONDS = 0.1
"""Clocks are looked at a hundred times a second, and instants are told in milliseconds."""
ROOM = DEFAULT_LIMITS.body_bytes_max - DEFAULT_LIMITS.adds_bytes_max - ENVELOPE_GROWTH_BYTES


def of_size(size: int) -> dict[str, Any]:
    """Data whose envelope, sent by `order` as s-1, has that many bytes."""

    def bytes_of(data: dict[str, Any]) -> int:
        trail = (TrailEntry(stage="order", at=AT),)
        return len(encode_envelope(Envelope(saga_id="s-1", data=data, trail=trail)))

    piece = "x" * 60_000
    data: dict[str, Any] = {**ORDER, "notes": []}
    while bytes_of(data) + len(piece) + 3 < size - 100:
        data["notes"].append(piece)
    data["notes"].append("")
    data["notes"][-1] = "y" * (size - bytes_of(data))
    assert size == bytes_of(data)
    return data


async def test_a_context_that_holds_the_stages_own_member_is_refused(chain: Chain) -> None:
    """422 before any effect: nothing that others wrote is overwritten."""
    status, _, body = await chain.send("s-1", {**ORDER, "payment": {"charge_id": "theirs"}})
    problem = msgspec.json.decode(body)

    assert (422, "not_executed") == (status, problem["outcome"])
    assert "urn:saga-stage:problem:own-member-taken" == problem["type"]
    assert (0, 0) == await chain.charges()
    assert await chain.shipped("s-1") is None


async def test_a_context_without_room_is_refused_before_the_charge(chain: Chain) -> None:
    """413: what this stage adds would make it too large for the next one."""
    status, _, body = await chain.send("s-1", of_size(ROOM + 1))

    assert (413, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
    assert (0, 0) == await chain.charges()
    assert 413 == (await chain.send("s-2", of_size(DEFAULT_LIMITS.body_bytes_max)))[0]
    assert (0, 0) == await chain.charges()


async def test_a_context_with_just_enough_room_is_handed_on(chain: Chain) -> None:
    """One byte less is taken, and downstream takes it too."""
    assert 200 == (await chain.send("s-1", of_size(ROOM)))[0]
    assert (1, 1) == await chain.charges()
    assert await chain.shipped("s-1") is not None


async def test_a_trail_without_room_is_refused_before_the_charge(chain: Chain) -> None:
    """422: with this stage it would have more names than the next one takes."""
    trail = tuple(TrailEntry(stage="order", at=AT) for _ in range(DEFAULT_LIMITS.trail_entries_max))
    body = encode_envelope(Envelope(saga_id="s-1", data=ORDER, trail=trail))
    status, _, _ = await chain.request("POST", f"{chain.stage}/sagas", body)

    assert 422 == status
    assert (0, 0) == await chain.charges()


async def test_a_context_without_room_for_values_is_refused_before_the_charge(chain: Chain) -> None:
    """422: with what this stage adds it would have more members than the next one takes."""
    items = DEFAULT_LIMITS.values_max - DEFAULT_LIMITS.adds_values_max
    status, _, body = await chain.send("s-1", {**ORDER, "items": [0] * items})

    assert (422, True) == (status, b"no room" in body), body
    assert (0, 0) == await chain.charges()


class Order(msgspec.Struct):
    order_id: str


async def test_an_output_of_too_many_values_turns_back(tmp_path: Path) -> None:
    """It is not handed on: downstream would refuse the context after the effects."""
    stage = Stage("payment", accepts=Order, adds=list[int])

    @stage.output
    def added(saga: Saga[Order]) -> list[int]:
        return [0] * (DEFAULT_LIMITS.adds_values_max + 1)

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert "members and items" in (await chain.view("s-1"))["reason"]
        assert await chain.shipped("s-1") is None


async def test_an_output_that_is_too_large_turns_back(tmp_path: Path) -> None:
    """It is not handed on, and the reason names the setting."""
    stage = Stage("payment", accepts=Order, adds=str)

    @stage.output
    def added(saga: Saga[Order]) -> str:
        return "x" * 1_000

    async with running_chain(tmp_path, stage=stage, adds_bytes_max=1_000) as chain:
        status, _, _ = await chain.send("s-1")
        assert 409 == status
        assert "adds_bytes_max" in (await chain.view("s-1"))["reason"]
        assert await chain.shipped("s-1") is None


async def test_the_answer_has_the_output_that_went_downstream(tmp_path: Path) -> None:
    """Also where the function would give another value each time: it is asked once."""
    stage = Stage("payment", accepts=Order, adds=str)
    asked: list[str] = []

    @stage.output
    def added(saga: Saga[Order]) -> str:
        asked.append(saga.id)
        return f"number {len(asked)}"

    async with running_chain(tmp_path, stage=stage) as chain:
        status, _, body = await chain.send("s-1")
        shipped = await chain.shipped("s-1")
    assert 200 == status
    assert shipped is not None
    assert "number 1" == shipped["data"]["payment"]
    assert "number 1" == msgspec.json.decode(body)["data"]["payment"]
    assert ["s-1"] == asked


@pytest.mark.parametrize("wrong", [-120.0, 120.0])
async def test_a_neighbour_with_a_slow_clock_is_served(chain: Chain, wrong: float) -> None:
    """Two minutes slow or fast: the budget in its header holds, by our own clock."""
    began = time.time()
    deadline = began + 20.0 + wrong
    status, _, _ = await chain.send("s-1", deadline=deadline, Saga_Budget_Ms="20000")

    assert 200 == status
    given = _seconds_given(await chain.view("s-1"))
    passed = time.time() - began
    assert 18.0 - passed - NOISE_SECONDS < given < 18.0 + NOISE_SECONDS  # a tenth is kept back


async def test_a_saga_without_a_deadline_gets_the_default(tmp_path: Path) -> None:
    """The operator's, where neither a header nor the envelope says how long it may take."""
    async with running_chain(tmp_path, deadline_seconds_default=30.0) as chain:
        began = time.time()
        await chain.send("s-1")
        given = _seconds_given(await chain.view("s-1"))
        passed = time.time() - began
        assert 27.0 - passed - NOISE_SECONDS < given < 27.0 + NOISE_SECONDS


async def test_the_deadline_holds_without_a_budget(chain: Chain) -> None:
    """As before."""
    began = time.time()
    await chain.send("s-1", deadline=began + 10.0)
    given = _seconds_given(await chain.view("s-1"))
    passed = time.time() - began
    assert 9.0 - passed - NOISE_SECONDS < given < 9.0 + NOISE_SECONDS


def _seconds_given(view: dict[str, Any]) -> float:
    from stage.wire.envelope import parse_instant

    return parse_instant(view["deadline"]) - parse_instant(view["accepted_at"])


async def test_a_look_that_waits_returns_at_the_end(chain: Chain) -> None:
    """Not at every entry of the journal: one request, whatever happens meanwhile."""
    await chain.script(chain.shipping, script="slow", seconds=1.0)
    assert 202 == (await chain.send("s-1", Prefer="respond-async"))[0]
    _, _, body = await chain.request("GET", f"{chain.stage}/sagas/s-1", Prefer="wait=10")

    assert "completed" == msgspec.json.decode(body)["state"]


async def test_a_look_that_waits_returns_when_its_time_is_up(chain: Chain) -> None:
    """With the saga as it is by then."""
    await chain.script(chain.shipping, script="slow", seconds=5.0)
    assert 202 == (await chain.send("s-1", Prefer="respond-async"))[0]
    began = time.monotonic()
    _, _, body = await chain.request("GET", f"{chain.stage}/sagas/s-1", Prefer="wait=1")

    assert "active" == msgspec.json.decode(body)["state"]
    assert 0.9 < time.monotonic() - began
    await chain.until("s-1", lambda saga: saga["state"] == "completed")


async def test_a_journal_is_paged_and_waited_for(chain: Chain) -> None:
    """`after` is the number of the last entry that the caller has."""
    await chain.send("s-1")
    url = f"{chain.stage}/sagas/s-1?view=journal"
    whole = (await chain.get(url))["entries"]
    first = await chain.get(f"{url}&limit=2")
    second = await chain.get(f"{url}&limit=2&after={first['next']}")
    assert whole[:4] == [*first["entries"], *second["entries"]]
    assert (await chain.get(url))["next"] is None

    last = whole[-1]["seq"]
    waiting = asyncio.create_task(chain.request("GET", f"{url}&after={last}", Prefer="wait=10"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await chain.compensate("s-1")
    _, _, body = await waiting
    assert last + 1 == msgspec.json.decode(body)["entries"][0]["seq"]


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=0", "after=%C2%B2"])
async def test_a_page_that_is_not_understood_is_refused(chain: Chain, query: str) -> None:
    """400 with what to send."""
    await chain.send("s-1")
    url = f"{chain.stage}/sagas/s-1?view=journal&{query}"
    assert 400 == (await chain.request("GET", url))[0]


def deep(levels: int) -> dict[str, Any]:
    """An object within so many others."""
    return {"in": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    "adds, why",
    [
        ({"number": 2**60}, "no integer beyond 2**53 - 1"),
        (deep(DEFAULT_LIMITS.depth_max), "(Nested too deep)"),
        ({"text": "x" * (DEFAULT_LIMITS.string_chars_max + 1)}, "(String too long)"),
        ({"numbers": [1e300] * (DEFAULT_LIMITS.exponents_max + 1)}, "Too many exponents"),
    ],
    ids=["number", "depth", "text", "exponents"],
)
async def test_an_answer_that_nobody_could_read_turns_back(
    tmp_path: Path, adds: dict[str, Any], why: str
) -> None:
    """It would be a doubt upstream for ever: each repeat is answered with the same bytes.

    The reason names the limit, and quotes nothing.
    """
    stage = Stage("payment", accepts=Order, adds=dict[str, Any])

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        return str((await http.post("/charges", json={"amount": 5})).json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": made})

    @stage.output
    def added(saga: Saga[Order]) -> dict[str, Any]:
        return adds

    last: dict[str, Any] = {"downstreams": {}, "adds_bytes_max": 200_000}
    async with running_chain(tmp_path, stage=stage, **last) as chain:
        status, _, body = await chain.send("s-1")
        assert (409, "compensated") == (status, msgspec.json.decode(body)["outcome"])
        assert why in (await chain.view("s-1"))["reason"]
        assert (1, 0) == await chain.charges()
