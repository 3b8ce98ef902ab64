"""One verb for many sagas: shown first, at a rate, stopped and resumed, each acted on once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.core.errors import StoreUnavailable
from stage.engine.embedded.sweeps import Sweeps
from stage.wire.limits import DEFAULT_LIMITS
from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.chain import Chain
from tests.scenario.test_operator import WHO, audit
from tests.waits import HANG_SECONDS

FAILED = {"cause": "failed_to_compensate"}


async def post(chain: Chain, path: str, **members: Any) -> tuple[int, Any]:
    """An order: code and body."""
    body = msgspec.json.encode({**WHO, **members})
    status, _, answer = await chain.request("POST", f"{chain.stage}{path}", body)
    return status, msgspec.json.decode(answer)


async def stuck(chain: Chain, count: int) -> list[str]:
    """So many sagas whose refund was declined, and a provider that refunds again."""
    ids = [f"s-{number}" for number in range(count)]
    for saga_id in ids:
        await chain.send(saga_id)
    await chain.script(chain.psp, script="refund-fails")
    for saga_id in ids:
        await chain.compensate(saga_id)
    await chain.script(chain.psp, script="ok")
    return ids


async def until_done(chain: Chain, number: int) -> Any:
    """The sweep once it is done."""
    async with asyncio.timeout(HANG_SECONDS):
        while True:
            sweep = await chain.get(f"{chain.stage}/sweeps/{number}")
            if sweep["state"] == "done":
                return sweep
            await asyncio.sleep(0.1)


async def acts_on(chain: Chain, saga_id: str) -> list[str]:
    """The acts of the audit on one saga."""
    page = await chain.get(f"{chain.stage}/audit?target={saga_id}")
    return [act["act"] for act in page["acts"]]


async def test_a_dry_run_counts_and_begins_nothing(chain: Chain) -> None:
    """It names the sagas that a sweep would be for."""
    ids = await stuck(chain, 3)
    status, sweep = await post(chain, "/sweeps", verb="retry", where=FAILED, dry_run=True)
    assert (200, 3, ids) == (status, sweep["sagas"], sweep["first"])
    assert sweep["number"] is None
    await asyncio.sleep(1.5)
    assert [] == (await chain.get(f"{chain.stage}/sweeps"))["sweeps"]
    assert [] == await acts_on(chain, "s-0")


async def test_a_sweep_does_its_verb_to_each_saga_that_the_filter_names(chain: Chain) -> None:
    """Once each, with the number of the sweep in every audit; others are left alone."""
    ids = await stuck(chain, 3)
    await chain.send("s-9")
    status, sweep = await post(chain, "/sweeps", verb="retry", where=FAILED, rate_per_second=50)
    assert (200, "running", 3) == (status, sweep["state"], sweep["sagas"])
    done = await until_done(chain, sweep["number"])
    assert (3, 0, 0) == (done["done"], done["pending"], done["refused"])
    for saga_id in ids:
        await chain.until(saga_id, lambda saga: saga["state"] == "compensated")
        assert ["retried"] == await acts_on(chain, saga_id)
    why = f"{WHO['reason']} (sweep {sweep['number']})"
    assert [("retried", WHO["actor"], why)] == await audit(chain, "s-0")
    assert [] == await acts_on(chain, "s-9")
    assert ["sweep_retry"] == await acts_on(chain, f"sweep {sweep['number']}".replace(" ", "%20"))


async def test_a_sweep_is_stopped_and_goes_on(chain: Chain) -> None:
    """At one a second four of five are left when it is stopped; none is acted on twice."""
    ids = await stuck(chain, 5)
    _, sweep = await post(chain, "/sweeps", verb="retry", saga_ids=ids, rate_per_second=1)
    path = f"/sweeps/{sweep['number']}"
    async with asyncio.timeout(HANG_SECONDS):
        while not (await chain.get(f"{chain.stage}{path}"))["done"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    assert (
        422
        == (await post(chain, f"{path}/stop", reason="r" * (DEFAULT_LIMITS.reason_chars_max + 1)))[
            0
        ]
    )
    _, stopped = await post(chain, f"{path}/stop")
    assert "stopped" == stopped["state"]
    await asyncio.sleep(2.5)
    left = (await chain.get(f"{chain.stage}{path}"))["pending"]
    assert 0 < left < 5
    await asyncio.sleep(1.5)
    assert left == (await chain.get(f"{chain.stage}{path}"))["pending"]
    await post(chain, f"{path}/resume")
    await until_done(chain, sweep["number"])
    assert {saga_id: ["retried"] for saga_id in ids} == {
        saga_id: await acts_on(chain, saga_id) for saga_id in ids
    }


async def test_a_saga_that_was_acted_on_before_the_process_was_lost_is_not_acted_on_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verb is durable and the progress of the sweep is not: the audit tells it."""
    ids = await stuck(chain, 2)
    lost: Counter[str] = Counter()
    end = Sweeps._end

    async def losing(self: Sweeps, sweep: Any, saga_id: str, refused: str) -> None:
        lost[saga_id] += 1
        if lost[saga_id] == 1:
            raise StoreUnavailable("lost behind the verb")
        await end(self, sweep, saga_id, refused)

    monkeypatch.setattr(Sweeps, "_end", losing)
    _, sweep = await post(chain, "/sweeps", verb="retry", saga_ids=ids, rate_per_second=50)
    done = await until_done(chain, sweep["number"])
    assert (2, 0) == (done["done"], done["refused"])
    assert dict.fromkeys(ids, 2) == lost
    assert [["retried"], ["retried"]] == [await acts_on(chain, saga_id) for saga_id in ids]


async def test_a_saga_to_which_the_verb_does_not_fit_is_named_with_the_reason(
    chain: Chain,
) -> None:
    """The others are acted on; an unknown id leaves no tombstone."""
    await stuck(chain, 1)
    await chain.send("s-8")
    ids = ["s-0", "s-8", "s-never"]
    _, sweep = await post(chain, "/sweeps", verb="resolve", saga_ids=ids, rate_per_second=50)
    done = await until_done(chain, sweep["number"])
    assert (1, 2) == (done["done"], done["refused"])
    refused = {each["saga_id"]: each["detail"] for each in done["first_refused"]}
    assert {"s-8", "s-never"} == set(refused)
    assert "nothing to resolve" in refused["s-8"]
    _, sweep = await post(chain, "/sweeps", verb="compensate", saga_ids=["s-8", "s-never"])
    assert 1 == (await until_done(chain, sweep["number"]))["refused"]
    assert "compensated" == (await chain.view("s-8"))["state"]
    assert 200 == (await chain.send("s-never"))[0]


async def test_a_sweep_does_not_count_what_cannot_be_compensated_as_done(chain: Chain) -> None:
    """Each of them answers 409 to a single request, and stands as before."""
    (failed,) = await stuck(chain, 1)
    await chain.send("s-8")
    assert 200 == (await post(chain, "/sagas/s-8/forget"))[0]
    await chain.send("s-9")

    ids = [failed, "s-8", "s-9"]
    _, sweep = await post(chain, "/sweeps", verb="compensate", saga_ids=ids, rate_per_second=50)
    done = await until_done(chain, sweep["number"])

    refused = {each["saga_id"]: each["detail"] for each in done["first_refused"]}
    assert (1, {failed, "s-8"}) == (done["done"], set(refused))
    assert "could not be undone: charge" in refused[failed]
    assert "cannot be undone any more" in refused["s-8"]
    assert "compensated" == (await chain.view("s-9"))["state"]


@pytest.mark.parametrize(
    "order, word",
    [
        ({"verb": "retry"}, "by neither"),
        ({"verb": "retry", "where": FAILED, "saga_ids": ["s-1"]}, "both"),
        ({"verb": "settle", "where": FAILED}, "settle"),
        ({"verb": "retry", "where": {"caus": "defect"}}, "no parameter 'caus'"),
        ({"verb": "retry", "where": {"limit": "5"}}, "belongs to a page"),
        ({"verb": "compensate", "where": {"step": ""}}, "`step` is empty"),
        ({"verb": "compensate", "where": {"peer": [""]}}, "`peer` is empty"),
        ({"verb": "compensate", "where": {"state": []}}, "`state` is empty"),
        (
            {"verb": "compensate", "where": {"state": ["completed"], "cause": []}},
            "`cause` is empty",
        ),
        ({"verb": "erase", "where": {"trace_id": ""}}, "`trace_id` is empty"),
        ({"verb": "resolve", "where": FAILED, "step": ""}, "`step` is empty"),
        ({"verb": "retry", "where": FAILED, "rate_per_second": 0}, "more than 0"),
        ({"verb": "retry", "where": FAILED, "reason": ""}, "must not be empty"),
        ({"verb": "retry", "saga_ids": ["s-1", "s-1"]}, "named twice"),
    ],
)
async def test_a_sweep_that_is_not_understood_is_refused(
    chain: Chain, order: dict[str, Any], word: str
) -> None:
    """Nothing is begun for more sagas than were meant."""
    status, body = await post(chain, "/sweeps", **order)
    assert status in (400, 422)
    assert word in f"{body['detail']} {body['hint']}", body
    assert [] == (await chain.get(f"{chain.stage}/sweeps"))["sweeps"]


async def test_a_sweep_that_is_not_there_is_not_found(chain: Chain) -> None:
    """404, with where to look."""
    for number in ("7", "x"):
        status, _, _ = await chain.request("GET", f"{chain.stage}/sweeps/{number}")
        assert 404 == status
    assert 404 == (await post(chain, "/sweeps/7/stop"))[0]


async def test_a_sweep_needs_the_role_of_its_verb(tmp_path: Path) -> None:
    """An operator retries many and resolves none, nor stops the sweep of an admin."""
    async with named_chain(tmp_path) as chain:
        assert 200 == (await chain.send("s-1", Authorization=shown_by("order")))[0]

        async def begin(verb: str, name: str) -> int:
            body = msgspec.json.encode({"reason": "x", "verb": verb, "saga_ids": ["s-1"]})
            url = f"{chain.stage}/sweeps"
            status, _, _ = await chain.request("POST", url, body, Authorization=shown_by(name))
            return status

        assert (403, 403, 403) == tuple(
            [await begin(verb, "olga") for verb in ("resolve", "abandon", "forget")]
        )
        assert (403, 200) == (await begin("retry", "vera"), await begin("retry", "olga"))
        assert 200 == await begin("forget", "ada")
        url = f"{chain.stage}/sweeps/2/stop"
        body = msgspec.json.encode({"reason": "x"})
        status, _, _ = await chain.request("POST", url, body, Authorization=shown_by("olga"))
        assert 403 == status
