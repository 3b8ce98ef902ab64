"""Defects found behind the author's API: what functions of an author can do to a saga."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from stage import Http, Refused, Saga, Stage, Transient, Tx
from tests.scenario.attacks.world import live, running_world
from tests.scenario.chain import HOST, ORDER, Chain
from tests.waits import until

SECONDS_MAX = 20.0


class Order(msgspec.Struct):
    order_id: str
    amount: int
    currency: str


class Charge(msgspec.Struct):
    charge_id: str


def decoded(body: bytes) -> Any:
    return msgspec.json.decode(body)


def new_stage() -> Stage[Order, Any]:
    return Stage("payment", accepts=Order)


async def ended(chain: Chain, saga_id: str) -> dict[str, Any]:
    """The view of a saga that must end or be parked soon."""
    async with asyncio.timeout(SECONDS_MAX):
        view: dict[str, Any] = await chain.until(
            saga_id,
            lambda saga: (
                saga["parked"]
                or saga["state"] in ("completed", "compensated", "failed_to_compensate")
            ),
        )
    return view


async def test_a_call_that_ends_cancelled_is_in_doubt(tmp_path: Path) -> None:
    """A cancellation out of the author's own task is "any other exception": in doubt (2)."""
    stage = new_stage()

    @stage.call(to="psp", attempts_max=1)
    async def charge(http: Http, saga: Saga[Order]) -> object:
        answer = await http.post("/do/charge", json={})
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task
        return answer.json()

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge: Any) -> None:
        await http.post("/undo/charge", json={})

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, world):
        await chain.send("s-1")
        view = await ended(chain, "s-1")
        assert "compensated" == view["state"]
        assert 0 == world.count("charge")


async def test_a_bug_before_the_first_request_is_no_doubt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing had left: repeated until the deadline, never parked, its place logged once (4)."""
    stage = new_stage()
    tried: list[int] = []

    @stage.call(to="psp", idempotent=False, attempts_max=1)
    async def charge(http: Http, saga: Saga[Order]) -> object:
        tried.append(saga.attempt)
        raise KeyError("amount")

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge: Any) -> None:
        await http.post("/undo/charge", json={})

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, world):
        await chain.send("s-1", deadline=time.time() + 2.0)
        view = await ended(chain, "s-1")
        assert ("compensated", False) == (view["state"], view["parked"]), view
        events = await chain.events("s-1")
    assert len(set(tried)) > 1  # for longer than its attempts last
    assert "step_transient" in events and "step_in_doubt" not in events
    assert [] == world.seen
    lines = [each.getMessage() for each in caplog.records if "where=author" in each.getMessage()]
    assert 1 == len(lines), lines
    assert "test_author_attacks.py" in lines[0] and "KeyError" in lines[0] and "s-1" in lines[0]


class Panic(BaseException):
    """No Exception: as the binding of a library in Rust declares its panics."""


PANICS = {"order_id": "panics", "amount": 100, "currency": "KRW"}


async def panic_for_that_order(saga: Saga[Order]) -> None:
    """Behind an await, where the task of the saga would end by it."""
    await asyncio.sleep(0)
    if saga.input.order_id == "panics":
        raise Panic("index out of range")


@pytest.mark.parametrize("kind", ["call", "effect"])
@pytest.mark.parametrize("together", ["", "both"])
async def test_a_panic_ends_its_step_and_not_its_saga(
    tmp_path: Path, kind: str, together: str
) -> None:
    """The saga turns back, and its callers hear so."""
    stage = new_stage()
    rules: dict[str, Any] = {"to": "psp", "timeout": 1.0, "together": together, "attempts_max": 1}

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def note(tx: Tx, saga: Saga[Order]) -> None: ...

    if kind == "call":

        @stage.call(**rules, compensation=None, reason="no test undoes it")
        async def charge(http: Http, saga: Saga[Order]) -> None:
            await panic_for_that_order(saga)

    else:

        @stage.effect(**rules, compensation=None, reason="no test undoes it")
        async def upload(saga: Saga[Order]) -> None:
            await panic_for_that_order(saga)

    @stage.effect(**rules, compensation=None, reason="no test undoes it")
    async def other(saga: Saga[Order]) -> None: ...

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        async with asyncio.timeout(SECONDS_MAX):
            assert 409 == (await chain.send("s-1", PANICS))[0]
            assert 200 == (await chain.send("s-2"))[0]


@pytest.mark.parametrize("where", ["probe", "compensation"])
async def test_a_panic_of_a_probe_or_of_an_undo_ends_that_attempt(
    tmp_path: Path, where: str
) -> None:
    """It is journaled how it ended, so that it is tried again or waits for a person."""
    stage = new_stage()

    @stage.effect(to="psp", timeout=1.0, attempts_max=1, compensation_attempts_max=1)
    async def upload(saga: Saga[Order]) -> str:
        if where == "probe":
            raise OSError("the connection broke")
        return "object-1"

    @upload.probe
    async def find(saga: Saga[Order]) -> str | None:
        await panic_for_that_order(saga)
        return None

    @upload.compensation
    async def remove(saga: Saga[Order], made: str | None) -> None:
        await panic_for_that_order(saga)

    async with running_world(tmp_path, stage, wait_seconds_max=0.2) as (chain, _):
        async with asyncio.timeout(SECONDS_MAX):
            await chain.send("s-1", PANICS)
            await chain.compensate("s-1")
            await chain.until("s-1", lambda saga: "Panic" in str(saga["steps"]))


async def test_a_panic_of_what_an_approval_shows_ends_its_saga_alone(tmp_path: Path) -> None:
    """Nobody is asked, and nothing is done."""
    stage = new_stage()

    @stage.approval("risk")
    def risk(saga: Saga[Order]) -> None:
        if saga.input.order_id == "panics":
            raise Panic("index out of range")

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        async with asyncio.timeout(SECONDS_MAX):
            assert 409 == (await chain.send("s-1", PANICS))[0]
            assert 200 == (await chain.send("s-2"))[0]


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), Panic()]
)
async def test_an_output_that_exits_turns_its_saga_back(
    tmp_path: Path, error: BaseException
) -> None:
    """The process goes on, and so do the others (rule 35)."""
    stage: Stage[Order, Charge] = Stage("payment", accepts=Order, adds=Charge)

    @stage.output
    def charged(saga: Saga[Order]) -> Charge:
        if saga.input.order_id == "bad":
            raise error
        return Charge("c-1")

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        assert 409 == (await chain.send("s-1", {**ORDER, "order_id": "bad"}))[0]
        assert 200 == (await chain.send("s-2"))[0]


async def test_a_transaction_that_exits_fails_alone(tmp_path: Path) -> None:
    """One bad saga stops neither the writer nor the others (rule 16)."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        if saga.input.order_id == "bad":
            raise SystemExit

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        async with asyncio.timeout(SECONDS_MAX):
            await chain.send("s-1", {**ORDER, "order_id": "bad"})
        async with asyncio.timeout(SECONDS_MAX):
            assert 200 == (await chain.send("s-2"))[0]
        await until(lambda: 0 == live(chain))


async def test_a_result_that_is_not_of_its_type_is_found_when_it_is_made(tmp_path: Path) -> None:
    """A wrong result must not park the saga with its charge standing (rules 6 and 12)."""
    stage = new_stage()

    @stage.transaction
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        return None

    @reserve.compensation
    async def release(tx: Tx, saga: Saga[Order]) -> None:
        return None

    @stage.call(to="psp", attempts_max=1)
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        answer = await http.post("/do/charge", json={})
        return answer.json()  # type: ignore[no-any-return]  # the mistake

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge: Charge | None) -> None:
        await http.post("/undo/charge", json={})

    @stage.transaction(attempts_max=1, compensation=None, reason="no test undoes it")
    async def record(tx: Tx, saga: Saga[Order]) -> None:
        assert saga.result(charge).charge_id

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, world):
        await chain.send("s-1")
        view = await ended(chain, "s-1")
        assert "compensated" == view["state"], view
        assert 0 == world.count("charge")


async def test_an_output_that_raises_turns_the_saga_back(tmp_path: Path) -> None:
    """An exception of the author's function fails the saga; it is no defect of the engine."""
    stage: Stage[Order, Charge] = Stage("payment", accepts=Order, adds=Charge)

    @stage.call(to="psp", attempts_max=1)
    async def charge(http: Http, saga: Saga[Order]) -> object:
        return (await http.post("/do/charge", json={})).json()

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge: Any) -> None:
        await http.post("/undo/charge", json={})

    @stage.output
    def charged(saga: Saga[Order]) -> Charge:
        raise LookupError("no such thing")

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, world):
        status, _, body = await chain.send("s-1")
        view = await ended(chain, "s-1")
        assert "compensated" == view["state"], view
        assert 409 == status, body
        assert 0 == world.count("charge")


async def test_a_function_cannot_change_what_others_wrote(tmp_path: Path) -> None:
    """`saga.data` is read-only; a stage never changes what others wrote (2, 3.1)."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        saga.data["amount"] = 1  # type: ignore[index]  # the mistake

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        await chain.send("s-1")
        shipped = await chain.shipped("s-1")
        assert shipped is None or 100 == shipped["data"]["amount"], shipped


async def test_a_connection_that_never_came_about_is_transient(tmp_path: Path) -> None:
    """Nothing was written: certain, so a call that cannot be repeated in doubt is not parked."""
    stage = new_stage()

    @stage.call(
        to="psp", timeout=0.4, idempotent=False, compensation=None, reason="no test undoes it"
    )
    async def charge(http: Http, saga: Saga[Order]) -> object:
        return (await http.post("/do/charge", json={})).json()

    with socket.socket() as full, socket.socket() as a, socket.socket() as b:
        full.bind((HOST, 0))
        full.listen(0)
        for taker in (a, b):  # the backlog is taken: a further connection hangs
            taker.setblocking(False)
            taker.connect_ex(full.getsockname())
        url = f"http://{HOST}:{full.getsockname()[1]}"
        options: dict[str, Any] = {"externals": {"psp": url}, "deadline_seconds_default": 2.0}
        async with running_world(tmp_path, stage, **options) as (chain, _):
            await chain.send("s-1")
            view = await ended(chain, "s-1")
            assert ("compensated", False) == (view["state"], view["parked"]), view


async def test_a_clean_up_that_awaits_does_not_hurry_the_compensation(tmp_path: Path) -> None:
    """Attempts to undo are apart whatever the author's function does when it is closed."""
    stage = new_stage()

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> object:
        return (await http.post("/do/charge", json={})).json()

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge: Any) -> None:
        try:
            await http.post("/undo/charge", json={})
        finally:
            await http.post("/undo/log", json={})

    async def away(_: web.Request) -> web.Response:
        return web.Response(status=503)

    async with running_world(tmp_path, stage, wait_seconds_max=3.0) as (chain, world):
        world.behaves["undo/charge"] = away
        await chain.send("s-1")
        await chain.compensate("s-1")
        await asyncio.sleep(0.5)
        attempts = world.seen.count("POST /undo/charge")
        assert attempts <= 12, attempts  # without back-off it is hundreds


async def test_a_reason_has_a_limit(tmp_path: Path) -> None:
    """The text of an author's exception is stored and sent on: it has a limit (rule 26)."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        raise Refused("x" * 2_000_000)

    async with running_world(tmp_path, stage) as (chain, _):
        status, _, body = await chain.send("s-1")
        assert 409 == status
        assert len(body) < 20_000, len(body)


async def test_a_reason_with_a_lone_surrogate_is_said_somehow(tmp_path: Path) -> None:
    """A business no is a business no, whatever its text."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        raise Refused("caf\udce9")

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        status, _, body = await chain.send("s-1")
        assert 409 == status, body


async def test_a_call_refused_with_a_lone_surrogate_is_said_somehow(tmp_path: Path) -> None:
    """The same for a call: the saga turns back."""
    stage = new_stage()

    @stage.call(to="psp", compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> object:
        await http.post("/do/charge", json={})
        raise Refused("caf\udce9")

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        await chain.send("s-1")
        view = await ended(chain, "s-1")
        assert "compensated" == view["state"], view


async def test_a_header_that_is_no_text_is_refused_at_the_function(tmp_path: Path) -> None:
    """A request is journaled: what cannot be read back must not be written (rule 1)."""
    stage = new_stage()

    @stage.call(to="psp", attempts_max=1, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> object:
        return (await http.post("/do/charge", json={}, headers={"X-Amount": 100})).json()

    async with running_world(tmp_path, stage, wait_seconds_max=2.0) as (chain, _):
        await chain.send("s-1")
        status, _, body = await chain.request("GET", f"{chain.stage}/sagas/s-1?view=journal")
        assert 200 == status, body
        status, _, body = await chain.request("GET", f"{chain.stage}/sagas/s-1")
        assert 200 == status, body


async def test_the_pool_of_connections_is_no_attempt(tmp_path: Path) -> None:
    """Waiting for a place in our own pool neither fails nor doubts a call (rule 4)."""
    stage = new_stage()

    @stage.call(to="psp", timeout=3.0, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> object:
        return (await http.post("/do/charge", json={})).json()

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(1.0)
        return web.json_response({"id": "2"})

    async with running_world(tmp_path, stage, wait_seconds_max=20.0) as (chain, world):
        world.behaves["do/charge"] = slow
        wide = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=wide) as chain.session:
            answers = await asyncio.gather(*(chain.admitted(f"s-{n}") for n in range(400)))
            doubts = 0
            for number in range(400):
                doubts += (await chain.events(f"s-{number}")).count("step_in_doubt")
        codes = sorted({answer[0] for answer in answers})
        assert (0, [200]) == (doubts, codes)


async def test_a_retry_after_that_is_no_number_does_not_lose_the_saga(tmp_path: Path) -> None:
    """`due` must be an instant: a saga that is never due again is lost (rule 16)."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        raise Transient("later", retry_after=float("nan"))

    async with running_world(tmp_path, stage, wait_seconds_max=SECONDS_MAX) as (chain, _):
        status, _, body = await chain.send("s-1")
        assert 409 == status, body
