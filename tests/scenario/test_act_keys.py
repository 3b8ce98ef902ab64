"""An order that comes twice under one key: done once, and answered as the first was (rule 14)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from stage.inbound import sweeps
from tests.scenario.chain import Chain
from tests.scenario.test_operator import WHO, stuck
from tests.scenario.test_sweeps import acts_on

ANEW: dict[str, Any] = {"anew": True, "new_key": True}


async def order(
    chain: Chain, path: str, key: str = "k-1", **members: Any
) -> tuple[int, bool, dict[str, Any]]:
    """An order under a key: code, whether it was a repeat, and the body."""
    body = msgspec.json.encode({**WHO, **members})
    status, headers, answer = await chain.request(
        "POST", f"{chain.stage}{path}", body, Idempotency_Key=key
    )
    replayed = headers.get("Idempotency-Replayed") == "true"
    return status, replayed, msgspec.json.decode(answer)


async def tried(chain: Chain, times: int) -> None:
    """Return once the refund was declined so often."""
    await chain.until(
        "s-1",
        lambda saga: (
            saga["state"] == "failed_to_compensate"
            and saga["steps"][1]["compensation_attempts"] == times
        ),
    )


async def test_a_late_copy_of_a_retry_orders_no_other_key(chain: Chain) -> None:
    """A proxy sends it again when the first has long failed: the API would take another refund."""
    await stuck(chain)
    before = (await chain.view("s-1"))["steps"][1]["compensation_attempts"]
    assert (200, False) == (await order(chain, "/sagas/s-1/retry", **ANEW))[:2]
    await tried(chain, before + 1)

    status, replayed, saga = await order(chain, "/sagas/s-1/retry", **ANEW)

    assert (200, True, "failed_to_compensate") == (status, replayed, saga["state"])
    assert 1 == (await chain.events("s-1")).count("retried")
    assert ["retried"] == await acts_on(chain, "s-1")
    assert (200, False) == (await order(chain, "/sagas/s-1/retry", "k-2", **ANEW))[:2]
    await tried(chain, before + 2)
    assert 2 == (await chain.events("s-1")).count("retried")


async def test_copies_that_come_at_once_are_one_order(chain: Chain) -> None:
    """Pressed twice, or sent on two connections."""
    await stuck(chain)
    answers = await asyncio.gather(
        *(order(chain, "/sagas/s-1/resolve", step="charge") for _ in range(4))
    )
    assert [200] * 4 == [status for status, _, _ in answers]
    assert [False, True, True, True] == sorted(replayed for _, replayed, _ in answers)
    assert ["resolved"] == await acts_on(chain, "s-1")


async def test_a_repeat_behind_the_end_of_the_journal_is_answered(chain: Chain) -> None:
    """To forget drops the journal, to erase all contents: the key is kept apart from both."""
    await stuck(chain)
    for verb in ("forget", "erase"):
        assert (200, False) == (await order(chain, f"/sagas/s-1/{verb}", f"k-{verb}"))[:2]
        assert (200, True) == (await order(chain, f"/sagas/s-1/{verb}", f"k-{verb}"))[:2]
    assert ["erased", "forgotten"] == await acts_on(chain, "s-1")


async def test_a_refused_order_is_not_done_by_a_late_copy(chain: Chain) -> None:
    """It was not allowed when the person ordered it, and is by now."""
    await chain.script(chain.psp, script="refuse")
    await chain.send("s-1")
    await chain.script(chain.psp, script="ok")
    await chain.send("s-2")
    status, replayed, first = await order(chain, "/sagas/s-2/retry")
    assert (409, False) == (status, replayed)
    await chain.script(chain.psp, script="refund-fails")
    await chain.compensate("s-2")

    status, replayed, second = await order(chain, "/sagas/s-2/retry")

    assert (409, True, first["detail"]) == (status, replayed, second["detail"])
    assert [] == await acts_on(chain, "s-2")


@pytest.mark.parametrize(
    "changed", [{"reason": "another"}, {"new_key": False}, {"path": "/sagas/s-2/retry"}]
)
async def test_another_order_under_the_key_is_refused(
    chain: Chain, changed: dict[str, Any]
) -> None:
    """The client has given two orders one key: nobody knows which it means."""
    await chain.send("s-2")
    await stuck(chain)
    await order(chain, "/sagas/s-1/retry", **ANEW)
    path = changed.pop("path", "/sagas/s-1/retry")
    status, _, problem = await order(chain, path, **{**ANEW, **changed})
    assert (422, "Idempotency key reused") == (status, problem["title"])
    assert ["retried"] == await acts_on(chain, "s-1")


async def test_a_dry_run_keeps_no_key(chain: Chain) -> None:
    """A preview and the act behind it may have one key."""
    await stuck(chain)
    assert (200, False) == (await order(chain, "/sagas/s-1/resolve", dry_run=True))[:2]
    assert (200, False) == (await order(chain, "/sagas/s-1/resolve"))[:2]
    assert ["resolved"] == await acts_on(chain, "s-1")


@pytest.mark.parametrize("key", ["", '""', "a b", "k" * 256, "\xe4"])
async def test_a_key_that_is_none_is_refused(chain: Chain, key: str) -> None:
    """With the fix, and nothing is done."""
    await stuck(chain)
    status, _, problem = await order(chain, "/sagas/s-1/retry", key)
    assert (400, "Idempotency key not understood") == (status, problem["title"])
    assert [] == await acts_on(chain, "s-1")


async def test_a_quoted_key_is_the_same_key(chain: Chain) -> None:
    """RFC 8941 writes a string in quotes, and most clients do not."""
    await stuck(chain)
    assert (200, False) == (await order(chain, "/sagas/s-1/resolve", "k-1"))[:2]
    assert (200, True) == (await order(chain, "/sagas/s-1/resolve", '"k-1"'))[:2]


async def test_a_late_copy_of_a_pause_holds_nothing_again(chain: Chain) -> None:
    """Nor does one of its end let go of what was paused since."""
    held = {"target": "externals.psp", "seconds": 60.0}
    end = {"target": "externals.psp"}
    assert (200, False) == (await order(chain, "/pauses", "k-1", **held))[:2]
    assert (200, True) == (await order(chain, "/pauses", "k-1", **held))[:2]
    assert (200, False) == (await order(chain, "/pauses/end", "k-2", **end))[:2]
    assert (200, True, {"pauses": []}) == await order(chain, "/pauses", "k-1", **held)
    assert (200, True, {"pauses": []}) == await order(chain, "/pauses/end", "k-2", **end)
    assert (200, False) == (await order(chain, "/pauses", "k-3", **held))[:2]
    status, replayed, body = await order(chain, "/pauses/end", "k-2", **end)
    assert (200, True, ["externals.psp"]) == (
        status,
        replayed,
        [each["target"] for each in body["pauses"]],
    )
    assert ["paused", "resumed", "paused"] == await acts_on(chain, "externals.psp")


async def test_a_late_copy_of_a_sweep_begins_none(chain: Chain) -> None:
    """It shows the sweep that the first began, also where its filter names none by now."""
    await stuck(chain)
    sweep = {"verb": "retry", "where": {"cause": "failed_to_compensate"}, "rate_per_second": 0.01}
    status, replayed, first = await order(chain, "/sweeps", "k-1", **sweep)
    assert (200, False, 1) == (status, replayed, first["sagas"])
    assert 200 == (await order(chain, "/sagas/s-1/resolve", "k-2", step="charge"))[0]
    status, replayed, second = await order(chain, "/sweeps", "k-1", **sweep)
    assert (200, True, first["number"]) == (status, replayed, second["number"])
    assert 1 == len((await chain.get(f"{chain.stage}/sweeps"))["sweeps"])


async def test_a_late_copy_of_a_sweep_that_named_no_saga_acts_on_none_that_came_since(
    chain: Chain,
) -> None:
    """The first was answered with an empty list; a saga that its filter names has come since."""
    sweep = {"verb": "retry", "where": {"cause": "failed_to_compensate"}}
    first = await order(chain, "/sweeps", "k-1", **sweep)
    assert (200, False, 0, None) == (*first[:2], first[2]["sagas"], first[2]["number"])
    await stuck(chain)

    status, replayed, second = await order(chain, "/sweeps", "k-1", **sweep)

    assert (200, True) == (status, replayed)
    assert second == {**first[2], "at": second["at"]}
    assert [] == (await chain.get(f"{chain.stage}/sweeps"))["sweeps"]
    assert 1 == (await order(chain, "/sweeps", "k-2", **sweep))[2]["sagas"]


async def test_a_late_copy_of_a_sweep_that_named_too_many_sagas_is_refused_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then its filter names fewer, and the person has narrowed it down."""
    await stuck(chain)
    sweep = {"verb": "retry", "where": {"cause": "failed_to_compensate"}}
    with monkeypatch.context() as few:
        few.setattr(sweeps, "SWEEP_SAGAS_MAX", 0)
        first = await order(chain, "/sweeps", "k-1", **sweep)
    second = await order(chain, "/sweeps", "k-1", **sweep)
    assert [422, 422] == [first[0], second[0]]
    assert first[2]["detail"] == second[2]["detail"]
    assert [] == (await chain.get(f"{chain.stage}/sweeps"))["sweeps"]


async def test_a_late_copy_of_an_end_that_ended_no_pause_lets_go_of_nothing(chain: Chain) -> None:
    """The peer was not paused then, and has been since."""
    end = {"target": "externals.psp"}
    assert 404 == (await order(chain, "/pauses/end", "k-1", **end))[0]
    assert 200 == (await order(chain, "/pauses", "k-2", **end, seconds=60.0))[0]
    assert 404 == (await order(chain, "/pauses/end", "k-1", **end))[0]
    held = (await chain.get(f"{chain.stage}/pauses"))["pauses"]
    assert ["externals.psp"] == [each["target"] for each in held]
    assert (200, False) == (await order(chain, "/pauses/end", "k-3", **end))[:2]


@pytest.mark.parametrize("verb", ["resolve", "erase"])
async def test_a_late_copy_of_a_verb_for_an_unknown_saga_does_nothing_to_it(
    chain: Chain, verb: str
) -> None:
    """It has come since, and by now the verb would be allowed."""
    assert 404 == (await order(chain, f"/sagas/s-1/{verb}"))[0]
    if verb == "erase":
        await chain.send("s-1")
    else:
        await stuck(chain)
    status, _, problem = await order(chain, f"/sagas/s-1/{verb}")
    assert 409 == status and "never seen" in problem["detail"]
    assert [] == await acts_on(chain, "s-1")


async def test_a_late_copy_of_a_stop_does_not_stop_a_sweep_that_goes_on(chain: Chain) -> None:
    """Somebody has let it go on meanwhile."""
    await stuck(chain)
    await chain.send("s-2")
    ids = {"verb": "retry", "saga_ids": ["s-1", "s-2"], "rate_per_second": 0.01}
    number = (await order(chain, "/sweeps", "k-1", **ids))[2]["number"]
    assert "stopped" == (await order(chain, f"/sweeps/{number}/stop", "k-2"))[2]["state"]
    assert "running" == (await order(chain, f"/sweeps/{number}/resume", "k-3"))[2]["state"]
    status, replayed, sweep = await order(chain, f"/sweeps/{number}/stop", "k-2")
    assert (200, True, "running") == (status, replayed, sweep["state"])
