"""The codes that a call declares are about the call: its undo has answers of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from stage import Http, Pending, Refused, Response, Saga, Stage, Transient
from stage.demo.payment import Order
from tests.scenario.attacks.world import running_world


def in_its_own_word(answer: Response) -> None:
    """As we show it: done and not there in a word that only the API gives."""
    if answer.status == 404 and answer.json()["code"] == "unknown_charge":
        return
    if answer.json().get("refund") == "declined":
        raise Refused("the refund was declined")
    if answer.json().get("refund") == "asked_for":
        raise Pending("it is not taken on yet")
    if answer.status >= 300:
        raise Transient(f"answered {answer.status}")


def not_looked_at(answer: Response) -> None:
    """A slip: whatever it says is taken for done."""


def stage_of(reads: Callable[[Response], None], **codes: set[int]) -> Stage[Order, Order]:
    """One charge, whose undo reads its answer in that way."""
    stage: Stage[Order, Order] = Stage("payment", accepts=Order)

    @stage.call(to="psp", timeout=2.0, **codes)  # type: ignore[arg-type]
    async def charge(http: Http, saga: Saga[Order]) -> str:
        return str((await http.post("/do/charge")).json()["id"])

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> str | None:
        return str((await http.get("/look/charge")).json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        reads(await http.post("/undo/charge"))

    return stage


async def undone(
    folder: Path, stage: Stage[Order, Order], *says: tuple[int, dict[str, str]]
) -> tuple[str, int]:
    """How a saga ends that is called back, and how often its undo was asked for.

    The API gives those answers one by one, and then its usual one.
    """
    left = list(says)

    async def answer(request: web.Request) -> web.Response:
        status, body = left.pop(0) if left else (200, {"refund": "done"})
        return web.json_response(body, status=status)

    async with running_world(folder, stage) as (chain, world):
        assert 200 == (await chain.send("s-1"))[0]
        world.behaves["undo/charge"] = answer
        await chain.compensate("s-1")
        ends = ("compensated", "failed_to_compensate")
        view = await chain.until("s-1", lambda saga: saga["state"] in ends)
        return view["state"], world.seen.count("POST /undo/charge")


async def test_a_refund_that_is_taken_on_is_no_pending_call(tmp_path: Path) -> None:
    """`pending_on={202}` made its 202 a refund that waited for days, and then failed."""
    stage = stage_of(in_its_own_word, pending_on={202})
    assert ("compensated", 1) == await undone(tmp_path, stage, (202, {"refund": "taken_on"}))


async def test_the_function_of_an_undo_says_that_it_is_pending(tmp_path: Path) -> None:
    """It sees the 202, and knows which of them is no end."""
    stage = stage_of(in_its_own_word, pending_on={202})
    assert ("compensated", 2) == await undone(tmp_path, stage, (202, {"refund": "asked_for"}))


@pytest.mark.parametrize("reads", [in_its_own_word, not_looked_at])
@pytest.mark.parametrize("code", [401, 404, 503])
async def test_one_page_of_a_gateway_ends_no_undo(
    tmp_path: Path, code: int, reads: Callable[[Response], None]
) -> None:
    """`refused_on` made one 401 of a rotated key the final no of a refund.

    Nor does it count as done where the function does not look at it.
    """
    stage = stage_of(reads, refused_on={401, 404, 503})
    page = (code, {"message": "no route", "code": ""})
    assert ("compensated", 2) == await undone(tmp_path, stage, page)


async def test_the_function_of_an_undo_decides_on_a_no(tmp_path: Path) -> None:
    """Both ways: nothing was there to undo, and it cannot be undone."""
    stage = stage_of(in_its_own_word, refused_on={402, 404})
    (tmp_path / "there").mkdir()
    unknown = await undone(tmp_path, stage, (404, {"code": "unknown_charge"}))
    declined = await undone(tmp_path / "there", stage, (402, {"refund": "declined"}))
    assert [("compensated", 1), ("failed_to_compensate", 1)] == [unknown, declined]
