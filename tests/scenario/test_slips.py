"""The slips of an author that show when a function runs: each ends as a defect, in words."""

from __future__ import annotations

import asyncio
import gc
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest

from stage import Http, Refused, Saga, Stage, Tx
from stage.authoring import steps
from stage.demo.payment import Order
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.waits import HANG_SECONDS

HERE = "test_slips.py:"
DELAYED = "compensation_delayed"
WHY = "no test undoes it"


def new_stage(**options: Any) -> Stage[Order, Any]:
    return Stage("payment", accepts=Order, **options)


async def undo(http: Http, saga: Saga[Order], made: object) -> None:
    await http.post("/refunds", json={"key": saga.key.removesuffix(":undo") + ":do"})


async def reasons(chain: Chain, event: str) -> list[str]:
    """Why the attempts of saga s-1 ended so, from its journal."""
    journal = await chain.get(f"{chain.stage}/sagas/s-1?view=journal")
    return [entry["reason"] for entry in journal["entries"] if entry["event"] == event]


async def test_a_request_that_is_not_awaited_is_a_defect(tmp_path: Path) -> None:
    """The function returned, and nothing was sent: not a success, and certain (rule 4)."""
    stage = new_stage()

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        http.post("/charges", json={"amount": 5})  # type: ignore[unused-coroutine]  # the slip
        return "charged"

    charge.compensation(undo)
    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=1.0) as chain:
        status, _, body = await chain.send("s-1")
        assert 409 == status, body
        assert (0, 0) == await chain.charges()
        said = (await reasons(chain, "step_transient"))[0]
        assert HERE in said and "http.post('/charges') was not awaited" in said
        assert "write await http.post(...)" in said


async def test_a_second_request_that_is_not_awaited_leaves_a_doubt(tmp_path: Path) -> None:
    """The first one had its effect, and is undone."""
    stage = new_stage()

    @stage.call(to="psp", requests=2, attempts_max=2)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        http.post("/receipts", json={})  # type: ignore[unused-coroutine]  # the slip
        return "charged"

    charge.compensation(undo)
    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (1, 0) == await chain.charges()
        assert (
            "http.post('/receipts') was not awaited" in (await reasons(chain, "step_in_doubt"))[0]
        )


async def test_a_request_in_a_task_of_its_own_is_a_defect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No task can hand a request out: nothing is sent, and no line quotes its body."""
    stage = new_stage()

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        asked = (http.post("/charges", json={"card": "4111", "n": n}) for n in (1, 2))
        first, _ = await asyncio.gather(*asked)
        return str(first.json()["id"])

    charge.compensation(undo)
    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=1.0) as chain:
        status, _, body = await chain.send("s-1")
        assert 409 == status, body
        assert (0, 0) == await chain.charges()
        said = (await reasons(chain, "step_transient"))[0]
        assert HERE in said and "http.post('/charges') was put into a task" in said
        assert "together=" in said
    gc.collect()
    assert "4111" not in caplog.text


async def test_a_body_that_is_no_json_is_named(tmp_path: Path) -> None:
    """With the type that cannot be sent, and the line."""
    stage = new_stage()

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"by": object()})
        return str(answer.json()["id"])

    charge.compensation(undo)
    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=1.0) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        said = (await reasons(chain, "step_transient"))[0]
        assert HERE in said and "json= of http.post('/charges') is no JSON" in said
        assert "type object" in said


async def test_a_compensation_that_awaits_nothing_has_not_undone(tmp_path: Path) -> None:
    """It is tried again, and the charge is not reported as taken back."""
    stage = new_stage()

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        return "charged"

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        http.post("/refunds", json={})  # type: ignore[unused-coroutine]  # the slip

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        assert 202 == (await chain.compensate("s-1", Prefer="respond-async"))[0]
        async with asyncio.timeout(HANG_SECONDS):
            while not (said := await reasons(chain, DELAYED)):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert "http.post('/refunds') was not awaited" in said[0]
        assert (1, 1) == await chain.charges()


async def test_a_second_request_that_was_not_declared_is_not_sent(tmp_path: Path) -> None:
    """Two keys and two effects would share one outcome: the first is undone (rule 6)."""
    stage = new_stage()

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        await http.post("/charges", json={"amount": 6})
        return "charged"

    charge.compensation(undo)
    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (1, 0) == await chain.charges()
        (said,) = await reasons(chain, "step_refused")
        assert HERE in said and "declare requests=2" in said


async def test_an_exception_is_reported_with_its_file_and_line(tmp_path: Path) -> None:
    """Not `KeyError: 'nope'`: its text may quote a payload, its place does not (rule 38)."""
    stage = new_stage()

    @stage.call(to="psp", compensation=None, reason=WHY)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        known: dict[str, str] = {}
        return known["nope"]

    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=0.5) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        said = (await reasons(chain, "step_transient"))[0]
        assert said.startswith("KeyError in charge (test_slips.py:") and "nope" not in said
        assert (0, 0) == await chain.charges()


async def test_a_statement_that_is_not_awaited_is_a_defect(tmp_path: Path) -> None:
    """A coroutine is true, so that its condition holds for ever; here nothing was looked up."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason=WHY, attempts_max=2)
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        if not tx.fetchval("SELECT 0 FROM payment WHERE id = '4111'"):  # type: ignore[truthy-bool]
            raise Refused("none is free")

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        said = await reasons(chain, "step_transient")
        assert 2 == len(said)
        assert "a statement was not awaited, so it did not run: write await" in said[0]
        assert "SELECT '...' FROM payment" in said[0] and "4111" not in said[0]


async def test_a_result_that_is_not_the_declared_one_is_named(tmp_path: Path) -> None:
    """The charge landed and is undone; the reason says what to write, and no value."""
    stage = new_stage()

    @stage.call(to="psp", attempts_max=1)
    async def charge(http: Http, saga: Saga[Order]) -> int:
        answer = await http.post("/charges", json={"amount": 5})
        return str(answer.json()["id"])  # type: ignore[return-value]  # the slip

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: int | None) -> None:
        await undo(http, saga, made)

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (1, 0) == await chain.charges()
        (said,) = await reasons(chain, "step_in_doubt")
        assert HERE in said and "charge returned str, which is not what it declares" in said
        assert "Return what it declares" in said and "ch_" not in said


async def test_an_undo_that_asks_for_the_lost_result_says_where_it_is(tmp_path: Path) -> None:
    """It is tried again, and the reason says how to undo without the result."""
    stage = new_stage()

    @stage.call(to="psp", attempts_max=1)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": 5})
        return str(answer.json()["not there"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"id": saga.result(charge)})

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 202 == (await chain.send("s-1", Prefer="respond-async, wait=0"))[0]
        view = await chain.until("s-1", lambda view: view["state"] == "compensating")
        assert "compensating" == view["state"]
        async with asyncio.timeout(HANG_SECONDS):
            while not (said := await reasons(chain, DELAYED)):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert "step 'charge' has no result here" in said[0] and "saga.key_of(step)" in said[0]


async def test_a_path_that_is_a_url_is_named_with_its_fix(tmp_path: Path) -> None:
    """Nothing leaves; whose move the URL is stands in the reason."""
    stage = new_stage()

    @stage.call(to="psp", compensation=None, reason=WHY)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        return str((await http.post("https://psp.example/charges")).json()["id"])

    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=0.5) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (0, 0) == await chain.charges()
        said = (await reasons(chain, "step_transient"))[0]
        assert HERE in said and "http.post takes a path" in said and "--external psp=URL" in said


async def test_an_answer_of_a_request_that_was_not_awaited_is_not_read(tmp_path: Path) -> None:
    """`http.post(...).json()`: nothing was sent, and the reason says which word is missing."""
    stage = new_stage()

    @stage.call(to="psp", compensation=None, reason=WHY)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer: Any = http.post("/charges", json={"amount": 5})
        return str(answer.json()["id"])

    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=0.5) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (0, 0) == await chain.charges()
        said = (await reasons(chain, "step_transient"))[0]
        assert HERE in said and "no answer with a json: write await http.post(...)" in said


def sleep() -> None:
    time.sleep(0.2)


def another_connection() -> None:
    sqlite3.connect(":memory:").close()


def connect() -> None:
    socket.create_connection(("127.0.0.1", 9), timeout=1.0)


def fetch() -> None:
    urlopen("http://127.0.0.1:9/")


def start() -> None:
    subprocess.run(["true"], check=True)


SLEEPS = (sleep,) if sys.version_info >= (3, 13) else ()
BLOCKS = (another_connection, connect, fetch, start, *SLEEPS)
"""Before Python 3.13 a sleep raises no audit event: only the watchdog sees it."""


@pytest.mark.parametrize("block", BLOCKS)
async def test_a_transaction_that_blocks_is_stopped(tmp_path: Path, block: Any) -> None:
    """All sagas share one writer, and a transaction cannot roll back a request that has left."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason=WHY)
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        block()

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        (said,) = await reasons(chain, "step_refused")
        assert "would block in" in said
        assert ("Use tx" if block is another_connection else "Move it to a call step") in said


async def test_a_call_may_wait_and_so_may_code_beside_a_transaction(tmp_path: Path) -> None:
    """Only the transaction function is watched, not what runs in other threads or contexts."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason=WHY)
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        await tx.fetchval("SELECT 1")

    @stage.call(to="psp", compensation=None, reason=WHY)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        time.sleep(0.001)  # noqa: ASYNC251 - before its request a call runs in a thread
        return str((await http.post("/charges", json={"amount": 5})).json()["id"])

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 200 == (await chain.send("s-1"))[0]


@pytest.mark.parametrize(
    "sql, parameters, words",
    [
        (
            "INSERT INTO booking VALUES (1, 'secret', $1)",
            ("s",),
            ("no table booking", "db upgrade"),
        ),
        ("SELECT nope FROM sqlite_master", (), ("no such column", "db status")),
        ("SELECT $1, $2", (("a", "b"),), ("a parameter is a tuple", "(sql, a, b)")),
        ("SELEC 1", (), ("in SELEC",)),
        ("SELECT $1, $2", ("a",), ("in SELECT $1, $2", "give one value for each place")),
        (
            "SELECT $1, $1",
            ("a", "b"),
            ("in SELECT $1, $1", "give one value for each place"),
        ),
    ],
)
async def test_a_statement_that_fails_is_reported_with_its_step_and_a_hint(
    tmp_path: Path, sql: str, parameters: tuple[object, ...], words: tuple[str, ...]
) -> None:
    """Once with its place; of the statement all but the literals, which may be somebody's data."""
    stage = new_stage()

    @stage.transaction(attempts_max=1, compensation=None, reason=WHY)
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        await tx.execute(sql, *parameters)

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        (said,) = await reasons(chain, "step_transient")
        assert "in reserve (test_slips.py:" in said
        assert all(word in said for word in words), said
        assert "secret" not in said


async def test_the_error_of_a_statement_keeps_its_type(tmp_path: Path) -> None:
    """A function may catch what the database raised."""
    stage = new_stage()

    @stage.transaction(compensation=None, reason=WHY)
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        try:
            await tx.execute("SELECT * FROM nowhere")
        except sqlite3.OperationalError:
            raise Refused("there is no such table") from None

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert ["there is no such table"] == await reasons(chain, "step_refused")


class Checked(msgspec.Struct):
    amount: int

    def __post_init__(self) -> None:
        if self.amount == 13:
            raise KeyError("thirteen")


async def test_a_check_that_raises_something_else_refuses_the_payload(tmp_path: Path) -> None:
    """422, not 500: nothing was executed. The defect is reported here, with its place."""
    stage: Stage[Checked, Any] = Stage("payment", accepts=Checked)
    async with running_chain(tmp_path, stage=stage) as chain:
        status, _, body = await chain.send("s-1", {"amount": 13})
        problem = msgspec.json.decode(body)
        assert (422, "not_executed") == (status, problem["outcome"])
        assert "data: KeyError" in problem["detail"] and "thirteen" not in problem["detail"]
        assert 200 == (await chain.send("s-2", {**ORDER, "amount": 12}))[0]


async def test_a_result_that_is_too_large_is_no_doubt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge was made, and is undone at once: no look would make its result smaller."""
    monkeypatch.setattr(steps, "RESULT_BYTES_MAX", 1_000)
    stage = new_stage()

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": 5})
        return "x" * 1_000

    charge.compensation(undo)
    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert (1, 0) == await chain.charges()
        said = (await reasons(chain, "step_refused"))[0]
        assert HERE in said and "str of 1002 bytes as JSON, and 1000 are kept of a step" in said
        events = await chain.events("s-1")
        assert ["compensated"] == [each for each in events if "doubt" in each or each in OVER]


OVER = ("compensated", "completed", "parked")


async def test_a_transaction_whose_result_is_too_large_wrote_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with any other result that cannot be kept."""
    monkeypatch.setattr(steps, "RESULT_BYTES_MAX", 1_000)
    stage = new_stage()

    @stage.transaction(compensation=None, reason=WHY)
    async def note(tx: Tx, saga: Saga[Order]) -> str:
        return "x" * 1_000

    async with running_chain(tmp_path, stage=stage, deadline_seconds_default=1.0) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert "1000 are kept of a step" in (await reasons(chain, "step_transient"))[0]
