"""Hard scenarios that are not told elsewhere: the database away, deadlines, new code on old rows.

The twelve that every release has to pass, by name:

 1. duplicate after success      test_forward: a_duplicate_of_a_finished_saga_gets_the_same_bytes
 2. undo before do               test_backward: compensation_before_its_request_leaves_a_tombstone
 3. do after undo                test_backward: a_request_after_compensation_is_gone
 4. timed out, effect landed     here: a_call_that_timed_out_although_it_landed_is_found
 5. killed before the commit     tests/acceptance/test_killed.py
 6. undo fails for good          test_backward: a_refund_that_fails_for_good_is_told_...
 7. undo while doing             test_backward: compensation_during_execution_turns_it_round
 8. late failure after success   test_backward: a_late_failure_travels_up
 9. upstream away for long       test_backward: a_late_failure_waits_for_an_upstream_that_is_away
10. database away for 30 s       here: the_database_away_for_30_s_loses_nothing
11. deadline over at each step   here: a_deadline_that_passes_...
12. new code, old rows           here: rows_of_..., a_finished_saga_of_..., a_payload_...
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from stage import Http, Refused, Saga, Stage, Transient, Tx
from stage.demo.payment import Charge, Order
from tests.scenario.chain import Chain, running_chain

AWAY_SECONDS = 30.0
SLOW_SECONDS = 2.5


async def test_a_call_that_timed_out_although_it_landed_is_found(chain: Chain) -> None:
    """No answer within the call's second: in doubt, probed, found, one charge (rules 4, 5)."""
    await chain.script(chain.psp, script="effect-then-hang")
    status, _, _ = await chain.send("s-1")
    assert 200 == status
    events = await chain.events("s-1")
    assert ["step_in_doubt", "probe_found"] == [
        event for event in events if event in ("step_in_doubt", "probe_found", "probe_not_there")
    ]
    assert (1, 1) == await chain.charges()


@pytest.mark.timeout(90)
@pytest.mark.blocking
async def test_the_database_away_for_30_s_loses_nothing(tmp_path: Path) -> None:
    """Another process holds the write lock: not ready, 503 for the new, the accepted finishes."""
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.psp, script="effect-then-hang")
        sending = asyncio.create_task(chain.send("s-1"))
        await chain.until_charged()
        holder = sqlite3.connect(tmp_path / "payment.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        away_since = time.monotonic()
        try:
            status, headers, body = await chain.send("s-2")
            # Nobody can look whether it is the repeat of a saga that ran (decision 0045).
            assert (503, "unknown") == (status, msgspec.json.decode(body)["outcome"])
            assert "Retry-After" in headers
            assert 503 == (await chain.request("GET", f"{chain.stage}/readyz"))[0]
            assert not sending.done()
            await asyncio.sleep(AWAY_SECONDS - (time.monotonic() - away_since))
        finally:
            holder.execute("ROLLBACK")
            holder.close()
        status, _, body = await sending
        if status == 500:  # who waited for long was told the truth: nobody knew
            assert "unknown" == msgspec.json.decode(body)["outcome"]
        else:
            assert status in (200, 202)
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert (1, 1) == await chain.charges()
        assert 404 == (await chain.request("GET", f"{chain.stage}/sagas/s-2"))[0]
        assert 200 == (await chain.send("s-2"))[0]


@pytest.mark.parametrize(
    "script, made", [("hang", 0), ("effect-then-hang", 1)], ids=["not landed", "landed"]
)
async def test_a_deadline_that_passes_during_the_call_undoes_everything(
    tmp_path: Path, script: str, made: int
) -> None:
    """No step starts after it; what stands is undone all the same (rule 19)."""
    async with running_chain(tmp_path, stage=slow(step="")) as chain:
        await chain.script(chain.psp, script=script)
        status, _, body = await chain.send("s-1", deadline=time.time() + SLOW_SECONDS)
        assert 409 == status, body
        assert (made, 0) == await chain.charges()
        assert await chain.shipped("s-1") is None


async def test_a_deadline_that_passes_downstream_undoes_everything(chain: Chain) -> None:
    """Downstream never answers: compensated there, then here."""
    await chain.script(chain.shipping, script="hang")
    status, _, _ = await chain.send("s-1", deadline=time.time() + 2.5)
    assert 409 == status
    assert (1, 0) == await chain.charges()
    shipped = await chain.shipped("s-1")
    assert shipped is not None
    assert "compensated" == shipped["state"]


def slow(step: str) -> Stage[Order, Charge]:
    """A reservation, a charge and a record; the transaction of that name is slow."""
    stage: Stage[Order, Charge] = Stage("payment", accepts=Order)

    def linger(name: str) -> None:
        if name == step:
            time.sleep(SLOW_SECONDS)  # in the writer's thread, as slow SQL would

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        linger("reserve")

    @stage.call(to="psp", timeout=5.0)
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        return Charge(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": None})

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def record(tx: Tx, saga: Saga[Order]) -> None:
        linger("record")

    return stage


@pytest.mark.parametrize("step, made", [("reserve", 0), ("record", 1)])
async def test_a_deadline_that_passes_during_a_transaction_undoes_everything(
    tmp_path: Path, step: str, made: int
) -> None:
    """The step after it does not start: no charge leaves, nothing is handed on (rule 19)."""
    async with running_chain(tmp_path, stage=slow(step)) as chain:
        status, _, body = await chain.send("s-1", deadline=time.time() + SLOW_SECONDS - 0.2)
        assert 409 == status, body
        assert (made, 0) == await chain.charges()
        assert await chain.shipped("s-1") is None


def version(*, steps: str) -> Stage[Order, Charge]:
    """The payment stage in versions: `old`, with a step `added` at the end, or one `renamed`."""
    stage: Stage[Order, Charge] = Stage("payment", accepts=Order)

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        pass

    @stage.call(to="psp", timeout=5.0)
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        if answer.status == 402:
            raise Transient("not today")
        return Charge(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        body = {"key": saga.key_of(charge), "charge_id": None}
        answer = await http.post("/refunds", json=body)
        if answer.status == 402:
            raise Refused("no refunds")

    if steps == "added":

        @stage.transaction(compensation=None, reason="no test undoes it")
        async def note(tx: Tx, saga: Saga[Order]) -> None:
            pass

    if steps == "renamed":
        stage.steps[1].name = "collect"
        stage.steps[1].rules = msgspec.structs.replace(stage.steps[1].rules, name="collect")
    return stage


class Stricter(msgspec.Struct):
    """An order as a later version wants it."""

    order_id: str
    amount: int
    country: str


def stricter() -> Stage[Stricter, Stricter]:
    """The payment stage after `accepts` was given one more member."""
    stage: Stage[Stricter, Stricter] = Stage("payment", accepts=Stricter)

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Stricter]) -> None:
        pass

    return stage


async def interrupted(folder: Path) -> None:
    """A saga of the old version whose charge is out when the process goes."""
    async with running_chain(folder, stage=version(steps="old"), drain_seconds=0.1) as chain:
        await chain.script(chain.psp, script="hang")
        status, _, _ = await chain.send("s-1", Prefer="wait=0")
        assert 202 == status


async def test_rows_of_another_version_go_on_where_the_steps_still_fit(tmp_path: Path) -> None:
    """A step that was added runs for the old saga too; the charge is repeated under its key."""
    await interrupted(tmp_path)
    async with running_chain(tmp_path, stage=version(steps="added")) as chain:
        view = await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert ["reserve", "charge", "note", "forward:shipping"] == [
            step["name"] for step in view["steps"] if step["phase"] == "succeeded"
        ]
        assert (1, 1) == await chain.charges()


async def test_rows_of_another_version_that_do_not_fit_wait_for_a_person(tmp_path: Path) -> None:
    """A step was renamed: parked with the reason and the fix, others run, nothing is lost."""
    await interrupted(tmp_path)
    async with running_chain(tmp_path, stage=version(steps="renamed")) as chain:
        view = await chain.until("s-1", lambda saga: saga["parked"])
        assert "does not fit stage 'payment' as it is declared now" in view["parked_reason"]
        assert 200 == (await chain.send("s-2"))[0]
    async with running_chain(tmp_path, stage=version(steps="old")) as chain:
        body = msgspec.json.encode({"actor": "kim", "reason": "the old version is back"})
        status, _, _ = await chain.request("POST", f"{chain.stage}/sagas/s-1/retry", body)
        assert 200 == status
        await chain.until("s-1", lambda saga: saga["state"] == "completed")


async def test_a_finished_saga_of_another_version_is_answered_as_before(tmp_path: Path) -> None:
    """A duplicate needs no journal: the same bytes back, whatever the steps are called by now."""
    async with running_chain(tmp_path, stage=version(steps="old")) as chain:
        _, _, executed = await chain.send("s-1")
        await chain.send("s-2")
        assert 200 == (await chain.compensate("s-2"))[0]
        _, _, gone = await chain.send("s-2")
    async with running_chain(tmp_path, stage=version(steps="renamed")) as chain:
        status, headers, body = await chain.send("s-1")
        assert (200, executed) == (status, body)
        assert "true" == headers["Idempotency-Replayed"]
        status, _, body = await chain.send("s-2")
        assert (410, gone) == (status, body)
        assert 200 == (await chain.compensate("s-2"))[0]
        status, _, body = await chain.compensate("s-1")  # nobody knows here how to undo it
        assert (409, "unknown") == (status, msgspec.json.decode(body)["outcome"])
        view = await chain.view("s-1")
        assert ("misfit", "unknown") == (view["parked_cause"], view["standing"])


async def test_asking_for_a_saga_of_another_version_parks_it_once(tmp_path: Path) -> None:
    """Its neighbours ask again and again; the journal and the alerts do not grow with that."""
    await interrupted(tmp_path)
    async with running_chain(tmp_path, stage=version(steps="renamed")) as chain:
        await chain.until("s-1", lambda saga: saga["parked"])
        before = await chain.events("s-1")
        for _ in range(3):
            assert 202 == (await chain.send("s-1"))[0]
            assert 409 == (await chain.compensate("s-1"))[0]
            await asyncio.sleep(0.1)  # it would be parked behind the answer
        asked = ["recovered", "compensation_requested", "parked"]  # once, and kept
        assert [*before, *asked] == await chain.events("s-1")


async def test_a_payload_that_a_newer_version_refuses_is_answered_if_it_was_taken_before(
    tmp_path: Path,
) -> None:
    """The same bytes back: `not_executed` of a saga that ran would leave its effects standing."""
    async with running_chain(tmp_path, stage=version(steps="old")) as chain:
        status, _, before = await chain.send("s-1")
        assert 200 == status
    async with running_chain(tmp_path, stage=stricter()) as chain:
        status, _, body = await chain.send("s-2")
        assert (422, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
        status, headers, body = await chain.send("s-1")
        assert (200, before) == (status, body)
        assert "true" == headers["Idempotency-Replayed"]
