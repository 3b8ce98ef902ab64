"""The external API of the demo: it honours its keys, and misbehaves exactly by its scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from stage.demo.psp import make_app
from tests.waits import HANG_SECONDS, until

KEY = "saga-1:payment:charge:do"
Psp = TestClient[Any, Any]


@pytest.fixture
async def psp() -> AsyncIterator[Psp]:
    """A provider on a free port."""
    async with TestClient(TestServer(make_app())) as client:
        yield client


async def charge(psp: Psp, key: str = KEY, amount: int = 100) -> tuple[int, bytes]:
    """Charge under a key, and give the code and the bytes."""
    async with psp.post(
        "/charges",
        json={"amount": amount},
        headers={"Idempotency-Key": key},
        timeout=aiohttp.ClientTimeout(total=HANG_SECONDS),
    ) as answer:
        return answer.status, await answer.read()


async def hang_up_on(psp: Psp) -> None:
    """Charge, and go away without an answer."""
    charging = asyncio.create_task(charge(psp))

    async def arrived() -> bool:
        async with psp.get("/charges") as answer:
            return bool((await answer.json())["totals"]["requests"])

    await until(arrived)
    charging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await charging


async def refund(psp: Psp, own_key: str = "refund-1", **body: str | None) -> int:
    """Refund, and give the code."""
    async with psp.post("/refunds", json=body, headers={"Idempotency-Key": own_key}) as answer:
        return answer.status


async def script(psp: Psp, name: str, **options: Any) -> None:
    """Let it misbehave."""
    async with psp.put("/script", json={"script": name, **options}) as answer:
        assert 200 == answer.status


async def counted(psp: Psp) -> tuple[int, int, int]:
    """The totals of the books: made, refunded, standing."""
    async with psp.get("/charges") as answer:
        totals = (await answer.json())["totals"]
        return totals["made"], totals["refunded"], totals["standing"]


async def test_one_key_is_one_charge(psp: Psp) -> None:
    """A repeat gets the stored answer, byte for byte, and says so."""
    status, first = await charge(psp)
    async with psp.post(
        "/charges", json={"amount": 100}, headers={"Idempotency-Key": KEY}
    ) as answer:
        second = await answer.read()

    assert 201 == status == answer.status
    assert first == second
    assert "true" == answer.headers["Idempotency-Replayed"]
    assert (1, 0, 1) == await counted(psp)


async def test_a_charge_without_a_key_is_refused(psp: Psp) -> None:
    """400, and nothing is made."""
    async with psp.post("/charges", json={"amount": 100}) as answer:
        assert 400 == answer.status
    assert (0, 0, 0) == await counted(psp)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"amount":0}', b'{"amount":"1"}', b"\xff"])
async def test_a_charge_that_is_none_is_refused(psp: Psp, body: bytes) -> None:
    """400, and nothing is made."""
    async with psp.post("/charges", data=body, headers={"Idempotency-Key": KEY}) as answer:
        assert 400 == answer.status
    assert (0, 0, 0) == await counted(psp)


async def test_a_key_holds_one_body(psp: Psp) -> None:
    """Another amount under the same key is 422, and nothing more is made."""
    await charge(psp)

    assert 422 == (await charge(psp, amount=200))[0]
    assert (1, 0, 1) == await counted(psp)


async def test_a_charge_is_found_by_its_key(psp: Psp) -> None:
    """The probe of a stage: 404 before, the charge afterwards; the key is quoted in the URL."""
    path = "/charges/by-key/" + quote("a/b:c", safe="")
    async with psp.get(path) as answer:
        assert 404 == answer.status
    _, made = await charge(psp, "a/b:c")

    async with psp.get(path) as answer:
        found = await answer.json()

    assert 200 == answer.status
    assert found["id"].encode() in made
    assert not found["refunded"]


@pytest.mark.parametrize("by_id", [False, True], ids=["by key", "by charge id"])
async def test_a_charge_is_given_back_once(psp: Psp, by_id: bool) -> None:
    """Refunds with the same key, or with another one, move no more money."""
    await charge(psp)
    body = {"key": None, "charge_id": "ch_000001"} if by_id else {"key": KEY}

    codes = [await refund(psp, own, **body) for own in ("r1", "r1", "r2")]

    assert [200, 200, 200] == codes
    assert (1, 1, 0) == await counted(psp)


async def test_a_charge_is_given_back_by_the_path_of_its_key(psp: Psp) -> None:
    """The same under `/charges/by-key/{key}/refund`."""
    await charge(psp)
    path = f"/charges/by-key/{quote(KEY, safe='')}/refund"

    async with psp.post(path, headers={"Idempotency-Key": "r1"}) as answer:
        body = await answer.json()

    assert {"key": KEY, "charge_id": "ch_000001", "refunded": 100, "standing": 0} == body


async def test_a_refund_without_a_charge_closes_the_key(psp: Psp) -> None:
    """It leaves a tombstone: the charge that comes late is refused with 410."""
    assert 200 == await refund(psp, key=KEY, charge_id=None)

    assert 410 == (await charge(psp))[0]
    assert (0, 0, 0) == await counted(psp)


async def test_a_refund_must_name_what_it_gives_back(psp: Psp) -> None:
    """Neither key nor charge: 400. An unknown charge: 404. Two that differ: 422."""
    await charge(psp)

    assert 400 == await refund(psp, "r1")
    assert 404 == await refund(psp, "r2", charge_id="ch_999999")
    assert 422 == await refund(psp, "r3", key="another", charge_id="ch_000001")
    assert (1, 0, 1) == await counted(psp)


async def test_refuse_declines_and_the_answer_stays(psp: Psp) -> None:
    """402 for all; the repeat of a declined charge is declined, also when all is well again."""
    await script(psp, "refuse")
    assert 402 == (await charge(psp))[0]
    await script(psp, "ok")

    assert 402 == (await charge(psp))[0]
    assert 201 == (await charge(psp, "another"))[0]


async def test_error_does_nothing_and_may_be_repeated(psp: Psp) -> None:
    """500 as often as the script says; then the same key charges."""
    await script(psp, "error", times=2)

    codes = [(await charge(psp))[0] for _ in range(3)]

    assert [500, 500, 201] == codes
    assert (1, 0, 1) == await counted(psp)


@pytest.mark.parametrize("name, made", [("hang", 0), ("effect-then-hang", 1)])
async def test_a_hanging_provider_says_nothing(psp: Psp, name: str, made: int) -> None:
    """The client gives up; the books know whether the charge landed."""
    await script(psp, name)

    await hang_up_on(psp)

    assert (made, 0, made) == await counted(psp)


async def test_after_effect_then_hang_the_repeat_is_answered(psp: Psp) -> None:
    """It strikes once unless `times` says otherwise, and the repeat finds the one charge."""
    await script(psp, "effect-then-hang")
    await hang_up_on(psp)

    status, _ = await charge(psp)

    assert 201 == status
    assert (1, 0, 1) == await counted(psp)


async def test_effect_then_drop_breaks_the_connection(psp: Psp) -> None:
    """The charge is made, the answer is lost, and the repeat is answered."""
    await script(psp, "effect-then-drop")

    with pytest.raises(aiohttp.ClientError):
        await charge(psp)

    assert (1, 0, 1) == await counted(psp)
    assert 201 == (await charge(psp))[0]
    assert (1, 0, 1) == await counted(psp)


async def test_refund_fails_leaves_the_charge_standing(psp: Psp) -> None:
    """402 on the refund; charging is as ever, and later the refund may be repeated."""
    await script(psp, "refund-fails", times=1)
    await charge(psp)

    assert 402 == await refund(psp, "r1", key=KEY)
    assert (1, 0, 1) == await counted(psp)
    assert 200 == await refund(psp, "r1", key=KEY)
    assert (1, 1, 0) == await counted(psp)


async def test_a_script_strikes_only_what_it_matches(psp: Psp) -> None:
    """Stories run beside each other: the longest match holds."""
    await script(psp, "refuse", match="saga-1")
    await script(psp, "ok", match="saga-1:payment")

    codes = [(await charge(psp, key))[0] for key in ("saga-2:x", "saga-1:x", KEY)]

    assert [201, 402, 201] == codes


async def test_a_script_that_is_none_is_refused(psp: Psp) -> None:
    """400 with the scripts that there are, and the behaviour stays."""
    async with psp.put("/script", json={"script": "explode"}) as answer:
        assert 400 == answer.status
        assert "refund-fails" in (await answer.json())["error"]
    assert 201 == (await charge(psp))[0]


async def test_the_books_show_the_trace_of_each_request(psp: Psp) -> None:
    """A test can see that the trace arrived here."""
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    headers = {"Idempotency-Key": KEY, "traceparent": traceparent}
    async with psp.post("/charges", json={"amount": 100}, headers=headers):
        pass

    async with psp.get("/charges") as answer:
        (entry,) = (await answer.json())["charges"]

    assert 1 == entry["requests"]
    assert [{"method": "POST", "path": "/charges", "traceparent": traceparent}] == entry["seen"]
