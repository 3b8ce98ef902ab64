"""The way forward: done, refused, in doubt, joined, replayed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.engine.saga.tombstones import TombstoneShares
from stage.ports.engine import Busy
from stage.wire.envelope import Envelope, encode_envelope
from tests.scenario.chain import ORDER, Chain, running_chain


def decoded(body: bytes) -> Any:
    return msgspec.json.decode(body)


async def test_a_saga_is_done_here_and_downstream(chain: Chain) -> None:
    """200 with what this stage and those behind it added, by stage name (3.3)."""
    status, headers, body = await chain.send("s-1")
    assert 200 == status
    answer = decoded(body)
    assert ("s-1", "executed") == (answer["saga_id"], answer["outcome"])
    assert {"charge_id"} == set(answer["data"]["payment"])
    assert "s-1" == headers["Saga-Id"]
    shipped = await chain.shipped("s-1")
    assert shipped is not None
    assert answer["data"]["payment"] == shipped["data"]["payment"]  # enriched on the way
    assert (1, 1) == await chain.charges()


async def test_a_duplicate_of_a_finished_saga_gets_the_same_bytes(chain: Chain) -> None:
    """Replayed byte for byte, marked, with one charge (rule 11, I9)."""
    first = await chain.send("s-1")
    again = await chain.send("s-1")
    assert first[2] == again[2]
    assert "Idempotency-Replayed" not in first[1]
    assert "true" == again[1]["Idempotency-Replayed"]
    assert (1, 1) == await chain.charges()


async def test_five_requests_at_once_are_one_run(chain: Chain) -> None:
    """They join, and get equal answers."""
    replies = await asyncio.gather(*(chain.send("s-1") for _ in range(5)))
    assert {200} == {status for status, _, _ in replies}
    assert 1 == len({body for _, _, body in replies})
    assert 1 == (await chain.events("s-1")).count("accepted")
    assert (1, 1) == await chain.charges()


async def test_another_payload_under_the_same_id_is_refused(chain: Chain) -> None:
    """422, and nothing happens (rule 11); the outcome is that of the saga which has the id."""
    await chain.send("s-1")
    status, _, body = await chain.send("s-1", {**ORDER, "amount": 999})
    assert 422 == status
    problem = decoded(body)
    assert ("urn:saga-stage:problem:saga-id-reused", "executed") == (
        problem["type"],
        problem["outcome"],
    )
    assert (1, 1) == await chain.charges()


async def test_a_business_no_undoes_what_was_done_and_is_the_answer(chain: Chain) -> None:
    """402 from the API: the reservation is released, the caller gets 409."""
    await chain.script(chain.psp, script="refuse")
    status, _, body = await chain.send("s-1")
    assert 409 == status
    problem = decoded(body)
    assert ("compensated", False) == (problem["outcome"], problem["retryable"])
    assert "card declined" in problem["detail"]
    assert await chain.shipped("s-1") is None
    assert ["reserve"] == [
        entry["step"]
        for entry in (await chain.get(f"{chain.stage}/sagas/s-1?view=journal"))["entries"]
        if entry["event"] == "compensation_succeeded"
    ]


async def test_a_refusal_downstream_undoes_the_charge(chain: Chain) -> None:
    """Downstream's 409 comes back as ours, with nothing standing and nobody told beside it."""
    await chain.script(chain.shipping, script="refuse")
    status, _, _ = await chain.send("s-1")
    assert 409 == status
    assert (1, 0) == await chain.charges()
    assert (await chain.view("s-1"))["told_upstream"] is None


async def test_a_refusal_is_replayed_too(chain: Chain) -> None:
    """The stored 409, byte for byte."""
    await chain.script(chain.shipping, script="refuse")
    first, again = await chain.send("s-1"), await chain.send("s-1")
    assert (409, first[2]) == (again[0], again[2])
    assert "true" == again[1]["Idempotency-Replayed"]


async def test_a_call_whose_answer_is_lost_is_probed_and_found(chain: Chain) -> None:
    """In doubt is not failed: the charge landed, is found, and is made once (rules 4 and 5)."""
    await chain.script(chain.psp, script="effect-then-drop")
    status, _, _ = await chain.send("s-1")
    assert 200 == status
    events = await chain.events("s-1")
    assert ["step_in_doubt", "probe_started", "probe_found"] == [
        event for event in events if "doubt" in event or "probe" in event
    ]
    assert (1, 1) == await chain.charges()


async def test_a_call_that_did_not_land_is_repeated_after_two_probes(chain: Chain) -> None:
    """500 without an effect: "not there" is asked twice, then the call is repeated."""
    await chain.script(chain.psp, script="error", times=1)
    status, _, _ = await chain.send("s-1")
    assert 200 == status
    events = await chain.events("s-1")
    assert 2 == events.count("probe_not_there")
    assert (1, 1) == await chain.charges()


async def test_downstream_in_doubt_is_asked_again_under_the_same_id(chain: Chain) -> None:
    """It did the work and broke the connection; the repeat is answered from its store."""
    await chain.script(chain.shipping, script="crash-answer")
    status, _, _ = await chain.send("s-1")
    assert 200 == status
    shipped = await chain.shipped("s-1")
    assert shipped is not None
    assert (1, 2) == (shipped["executed"], shipped["requests"])


async def test_downstream_not_now_is_asked_again(chain: Chain) -> None:
    """503 with Retry-After: nothing happened there, the same id is sent again."""
    await chain.script(chain.shipping, script="flaky", seconds=0)
    status, _, _ = await chain.send("s-1")
    assert 200 == status


async def test_a_downstream_that_said_not_now_accepts_no_copy_once_the_saga_is_over(
    tmp_path: Path,
) -> None:
    """A gateway may send a request twice: the second one came when all had been undone."""
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="flaky", seconds=60)
        status, _, body = await chain.send("s-1", deadline=time.time() + 3.0)
        assert 409 == status, body
        events = await chain.events("s-1")
        assert events.index("step_transient") < events.index("turned_back")
        shipped = await chain.shipped("s-1")
        assert shipped is not None and "compensated" == shipped["state"]
        copy = encode_envelope(Envelope(saga_id="s-1", data=ORDER))
        status, _, body = await chain.request("POST", f"{chain.shipping}/sagas", copy)
        assert status in (410, 422) and b'"compensated"' in body
        assert (1, 0) == await chain.charges()


async def test_a_hanging_downstream_is_compensated_when_the_budget_is_gone(tmp_path: Path) -> None:
    """Unknown until the deadline; then compensate there until answered, then here (3.3)."""
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="hang")
        status, _, body = await chain.send("s-1", deadline=time.time() + 3.0)
        assert 409 == status, body
        assert (1, 0) == await chain.charges()
        shipped = await chain.shipped("s-1")
        assert shipped is not None
        assert "compensated" == shipped["state"]


async def test_async_is_answered_202_and_looked_up(chain: Chain) -> None:
    """Prefer: respond-async gives 202 with Location, durable; the saga goes on."""
    status, headers, _ = await chain.send("s-1", Prefer="respond-async")
    assert (202, "sagas/s-1") == (status, headers["Location"])
    view = await chain.until("s-1", lambda saga: saga["state"] == "completed")
    assert "executed" == view["outcome"]


async def test_a_wait_that_runs_out_is_answered_202(chain: Chain) -> None:
    """The caller is told 202, that is journaled, and a later failure travels up to it."""
    await chain.script(chain.shipping, script="slow", seconds=0.5)
    status, _, _ = await chain.send("s-1", Prefer="wait=0")
    assert 202 == status
    await chain.until("s-1", lambda saga: saga["state"] == "completed")
    assert "answer_deferred" in await chain.events("s-1")


async def test_the_deadline_that_is_over_on_arrival_is_504(chain: Chain) -> None:
    """Nothing is executed (rule 19)."""
    status, _, body = await chain.send("s-1", deadline=time.time() - 1)
    assert (504, "not_executed") == (status, decoded(body)["outcome"])
    assert await chain.shipped("s-1") is None


async def test_a_saga_that_came_too_late_never_runs(chain: Chain) -> None:
    """A clock that is ahead says 504 too early, and a repeat may come when it is right: the sender
    took the first answer for final (I10, rule 34)."""
    assert 504 == (await chain.send("s-1", deadline=time.time() - 1))[0]

    status, _, body = await chain.send("s-1", deadline=time.time() + 60)

    assert (410, "not_executed") == (status, decoded(body)["outcome"])
    assert ["tombstoned"] == await chain.events("s-1")
    assert await chain.shipped("s-1") is None


async def test_a_saga_that_was_refused_never_runs(chain: Chain) -> None:
    """Its sender took 422 for final; a later release may accept the same bytes (I10)."""
    status, _, body = await chain.send("s-1", {"order_id": "o-1", "amount": "much"})
    assert (422, "not_executed") == (status, decoded(body)["outcome"])

    status, _, body = await chain.send("s-1")

    assert (410, "not_executed") == (status, decoded(body)["outcome"])
    assert ["tombstoned"] == await chain.events("s-1")
    assert await chain.shipped("s-1") is None


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize(
    "status, body",
    [(400, b'{"saga_id": "s-1", '), (413, b"x" * 1_100_000), (422, b"[]")],
)
async def test_a_refused_body_bars_the_saga_that_its_key_names(
    chain: Chain, status: int, body: bytes
) -> None:
    """The key is the saga id, also where nothing of the body could be read."""
    url = f"{chain.stage}/sagas"
    found, _, answer = await chain.request("POST", url, body, Idempotency_Key="s-1")
    assert (status, "not_executed") == (found, decoded(answer)["outcome"])

    assert 410 == (await chain.send("s-1"))[0]
    assert ["tombstoned"] == await chain.events("s-1")


async def test_a_mangled_repeat_says_nothing_of_the_saga(chain: Chain) -> None:
    """`not_executed` would not be true of it: its sender would undo itself, and we would stand."""
    assert 200 == (await chain.send("s-1"))[0]

    url = f"{chain.stage}/sagas"
    status, _, body = await chain.request("POST", url, b'{"saga_id', Idempotency_Key="s-1")

    assert (400, "unknown") == (status, decoded(body)["outcome"])
    assert "compensate here" in decoded(body)["hint"]
    assert 200 == (await chain.send("s-1"))[0]


async def test_a_refusal_without_a_tombstone_is_no_word_either(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the allowance of its upstream nothing is written, so that a repeat may run."""

    def none_left(*_: object) -> None:
        raise Busy("too many")

    monkeypatch.setattr(TombstoneShares, "take", none_left)
    status, _, body = await chain.send("s-1", {"order_id": "o-1", "amount": "much"})

    assert (422, "unknown") == (status, decoded(body)["outcome"])


async def test_the_budget_holds_where_it_is_given(chain: Chain) -> None:
    """Saga-Budget-Ms: 0 is over on arrival, whatever the deadline says."""
    status, _, _ = await chain.send("s-1", deadline=time.time() + 60, Saga_Budget_Ms="0")
    assert 504 == status


async def test_a_payload_that_is_not_accepted_is_422(chain: Chain) -> None:
    """The problem names the member and where to find the schema."""
    status, _, body = await chain.send("s-1", {"order_id": "o-1", "amount": "much"})
    problem = decoded(body)
    assert (422, "not_executed") == (status, problem["outcome"])
    assert "amount" in problem["detail"]
    assert "/.well-known/stage" in problem["hint"]
