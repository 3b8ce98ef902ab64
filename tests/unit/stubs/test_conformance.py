"""The judge of neighbours: a right one keeps each law, and each planted defect breaks its own."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from stage.neighbours.conformance import caller as caller_module
from stage.neighbours.conformance import laws
from stage.neighbours.conformance.__main__ import main
from stage.neighbours.conformance.caller import Caller
from stage.neighbours.conformance.laws import LAWS, Broken, Law
from stage.neighbours.downstream.app import make_app
from stage.neighbours.downstream.script import Script, ScriptName
from stage.neighbours.shared.tokens import Keys
from tests.unit.stubs.conftest import Start
from tests.waits import HANG_SECONDS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Plant = Callable[[web.Request, Handler, dict[str, Any]], Awaitable[web.StreamResponse]]
"""A defect around a neighbour that is right; the dict is its memory."""
DATA = {"order_id": "o-1", "amount": 1}


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here takes long."""
    monkeypatch.setattr(caller_module, "SETTLE_SECONDS_MAX", 1.0)
    monkeypatch.setattr(caller_module, "PAUSE_SECONDS", 0.02)


@asynccontextmanager
async def judged(
    start: Start, script: str = "accept", plant: Plant | None = None
) -> AsyncIterator[Caller]:
    """A neighbour with that script, and maybe a defect, as the judge asks it."""
    named = Script(ScriptName(script), seconds=0.1 if script == "slow" else None)
    app = make_app(name="shipping", upstream="http://127.0.0.1:9", script=named)
    memory: dict[str, Any] = {}
    if plant is not None:

        @web.middleware
        async def planted(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await plant(request, handler, memory)

        app.middlewares.insert(0, planted)
    client = await start(app)
    caller = Caller(str(client.make_url("/")), "payment", Keys(), DATA)
    async with caller.open():
        yield caller


@pytest.mark.parametrize("script", ["accept", "slow", "flaky", "crash-answer"])
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_a_right_neighbour_keeps_the_law(
    start: Start, law: Law, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that works for a while, says not now, or whose answer is lost on the way."""
    monkeypatch.setattr(caller_module, "SETTLE_SECONDS_MAX", HANG_SECONDS)
    async with judged(start, script) as caller:
        await law(caller)


def is_start(request: web.Request) -> bool:
    return (request.method, request.path) == ("POST", "/sagas")


def is_compensate(request: web.Request) -> bool:
    return request.path.endswith("/compensate")


def said(status: int, outcome: str, **more: Any) -> web.Response:
    return web.json_response({"outcome": outcome, **more}, status=status)


async def a_yes_without_an_outcome(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    return web.json_response({"data": {}}) if is_start(request) and answer.status == 200 else answer


async def a_yes_with_a_member_more(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    yes = is_start(request) and answer.status == 200
    return said(200, "executed", tracking="4711") if yes else answer


async def a_202_for_ever(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    return said(202, "in_progress") if is_start(request) and answer.status == 200 else answer


async def work_done_twice(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    if not is_start(request) or answer.status != 200:
        return answer
    memory["count"] = memory.get("count", 0) + 1
    return said(200, "executed", data={"shipping": {"id": memory["count"]}})


async def a_yes_that_echoes_what_it_was_sent(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    if not is_start(request) or answer.status != 200:
        return answer
    echo = json.loads(await request.read())["data"]
    return said(200, "executed", data={**echo, "shipping": {}})


async def other_data_not_executed(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    return said(422, "not_executed") if is_start(request) and answer.status == 422 else answer


async def compensate_that_does_nothing(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    return said(200, "compensated") if is_compensate(request) else await handler(request)


async def no_tombstone(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    if is_start(request):
        memory[json.loads(await request.read())["saga_id"]] = True
    unseen = is_compensate(request) and request.match_info["saga_id"] not in memory
    return said(200, "not_executed") if unseen else await handler(request)


async def compensate_of_a_stranger_is_404(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    answer = await no_tombstone(request, handler, memory)
    return web.Response(status=404) if b"not_executed" in (answer.body or b"") else answer  # type: ignore[attr-defined]


async def a_late_start_that_is_forgotten(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    late = is_start(request) and request.headers["Saga-Budget-Ms"] == "0"
    return said(504, "not_executed") if late else await handler(request)


async def a_late_start_that_runs(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    late = is_start(request) and request.headers["Saga-Budget-Ms"] == "0"
    return said(200, "executed") if late else await handler(request)


async def a_clock_that_is_believed(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    if not is_start(request):
        return await handler(request)
    deadline = json.loads(await request.read())["deadline"]
    over = datetime.fromisoformat(deadline) <= datetime.now(UTC)
    return said(504, "not_executed") if over else await handler(request)


async def a_second_copy_is_refused(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    if not is_start(request):
        return await handler(request)
    saga_id = json.loads(await request.read())["saga_id"]
    if saga_id in memory:
        return said(409, "not_executed")
    memory[saga_id] = True
    try:
        return await handler(request)
    finally:
        del memory[saga_id]


async def a_caller_that_left_is_refused_later(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    if not is_start(request):
        return await handler(request)
    first = memory.setdefault(json.loads(await request.read())["saga_id"], request.transport)
    left = first is None or first.is_closing()
    return said(409, "not_executed") if left else await handler(request)


async def work_that_ends_behind_a_compensation(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    if is_compensate(request):
        memory[request.match_info["saga_id"]] = time.monotonic()
        return said(200, "compensated")
    if not is_start(request):
        return await handler(request)
    since = memory.get(json.loads(await request.read())["saga_id"])
    running = since is not None and time.monotonic() - since < 0.1
    return said(410, "compensated") if running else await handler(request)


async def a_refusal_that_thaws(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    given = json.loads(await request.read()) if is_start(request) else {}
    empty = given.get("data") == {}
    return said(422, "not_executed", saga_id=given["saga_id"]) if empty else await handler(request)


def ids_taken_for_one(key: Callable[[str], str]) -> Plant:
    """A table whose key holds less than the id."""

    async def plant(
        request: web.Request, handler: Handler, memory: dict[str, Any]
    ) -> web.StreamResponse:
        if not is_start(request):
            return await handler(request)
        saga_id = json.loads(await request.read())["saga_id"]
        first = memory.setdefault(key(saga_id), saga_id)
        return await handler(request) if first == saga_id else said(422, "executed")

    return plant


async def an_undo_that_finds_ids_by_their_letters(
    request: web.Request, handler: Handler, memory: dict[str, Any]
) -> web.StreamResponse:
    if is_compensate(request):
        memory[request.match_info["saga_id"].lower()] = True
    saga_id = json.loads(await request.read())["saga_id"] if is_start(request) else ""
    return said(410, "compensated") if saga_id.lower() in memory else await handler(request)


async def a_deadline_before_the_books(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    over = is_start(request) and "Saga-Budget-Ms" not in request.headers
    return said(504, "not_executed") if over else await handler(request)


async def a_reason_is_not_taken(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    known = is_compensate(request) and b"first_sent_at" in await request.read()
    return said(422, "not_executed") if known else await handler(request)


async def a_body_is_demanded(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    empty = is_compensate(request) and not await request.read()
    return said(400, "not_executed") if empty else await handler(request)


async def a_bare_400(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    answer = await handler(request)
    return web.Response(status=400, text="Bad Request") if answer.status == 400 else answer


async def a_look_that_knows_nothing(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    return said(404, "not_executed") if request.method == "GET" else await handler(request)


async def a_look_that_is_not_served(
    request: web.Request, handler: Handler, _: dict[str, Any]
) -> web.StreamResponse:
    return web.Response(status=404) if request.method == "GET" else await handler(request)


PLANTED: tuple[tuple[Plant, Law, str], ...] = (
    (a_yes_without_an_outcome, laws.a_yes_is_understood, "accept"),
    (a_yes_with_a_member_more, laws.a_yes_is_understood, "accept"),
    (a_202_for_ever, laws.a_yes_is_understood, "accept"),
    (work_done_twice, laws.a_repeat_gets_the_same_answer, "accept"),
    (work_done_twice, laws.twins_are_one, "accept"),
    (a_yes_that_echoes_what_it_was_sent, laws.a_yes_adds_and_rewrites_nothing, "accept"),
    (other_data_not_executed, laws.other_data_gets_the_outcome_that_stands, "accept"),
    (compensate_that_does_nothing, laws.what_is_compensated_never_runs_again, "accept"),
    (compensate_that_does_nothing, laws.a_compensation_meets_a_start, "slow"),
    (no_tombstone, laws.a_compensation_may_come_first, "accept"),
    (compensate_of_a_stranger_is_404, laws.a_compensation_may_come_first, "accept"),
    (a_late_start_that_is_forgotten, laws.a_start_that_is_late_never_runs, "accept"),
    (a_late_start_that_runs, laws.a_start_that_is_late_never_runs, "accept"),
    (a_clock_that_is_believed, laws.a_budget_holds_over_a_deadline, "accept"),
    (a_second_copy_is_refused, laws.twins_are_one, "slow"),
    (a_caller_that_left_is_refused_later, laws.a_caller_that_hung_up_is_answered_later, "slow"),
    (work_that_ends_behind_a_compensation, laws.nothing_runs_behind_a_compensation, "slow"),
    (a_refusal_that_thaws, laws.a_no_for_good_stays_one, "accept"),
    (ids_taken_for_one(str.lower), laws.each_id_is_a_saga_of_its_own, "accept"),
    (ids_taken_for_one(lambda each: each[:127]), laws.each_id_is_a_saga_of_its_own, "accept"),
    (an_undo_that_finds_ids_by_their_letters, laws.each_id_is_a_saga_of_its_own, "accept"),
    (a_deadline_before_the_books, laws.a_repeat_behind_its_deadline_is_answered, "accept"),
    (a_reason_is_not_taken, laws.a_request_to_compensate_may_say_little_or_all, "accept"),
    (a_body_is_demanded, laws.a_request_to_compensate_may_say_little_or_all, "accept"),
    (a_bare_400, laws.what_cannot_be_read_is_refused_in_its_own_word, "accept"),
    (a_look_that_knows_nothing, laws.a_look_says_the_outcome, "accept"),
    (a_look_that_is_not_served, laws.a_look_says_the_outcome, "accept"),
)


@pytest.mark.parametrize(
    "plant, law, script", PLANTED, ids=lambda each: getattr(each, "__name__", each)
)
async def test_a_planted_defect_breaks_its_law(
    start: Start, plant: Plant, law: Law, script: str
) -> None:
    """Each is one that loses money, or that costs a request to compensate."""
    async with judged(start, script, plant) as caller:
        with pytest.raises(Broken):
            await law(caller)


def test_every_law_has_a_defect() -> None:
    """A law that nothing breaks judges nothing."""
    assert set(LAWS) == {law for _, law, _ in PLANTED}


def test_data_that_is_no_json_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """2, and nobody is asked."""
    assert 2 == main(["http://127.0.0.1:9", "--data", "order"])
    assert "JSON" in capsys.readouterr().err


def test_one_that_is_not_there_keeps_no_law(capsys: pytest.CaptureFixture[str]) -> None:
    """1, with a line for each law."""
    assert 1 == main(["http://127.0.0.1:9", "--data", "{}"])
    printed = capsys.readouterr().out
    assert len(LAWS) == printed.count("BROKEN") and f"0 of {len(LAWS)} laws hold" in printed
