"""An operator holds a peer, a direction, or new sagas: obeyed, shown, and over by itself."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.core.pause import Pause
from tests.scenario.chain import SERVICE, Chain, running_chain
from tests.scenario.test_operator import WHO, do, stuck


async def hold(chain: Chain, target: str, seconds: float = 60.0, **more: Any) -> tuple[int, Any]:
    """`POST /pauses`: code and body."""
    body = msgspec.json.encode({**WHO, "target": target, "seconds": seconds, **more})
    status, _, answer = await chain.request("POST", f"{chain.stage}/pauses", body)
    return status, msgspec.json.decode(answer)


async def resume(chain: Chain, target: str, **more: Any) -> tuple[int, Any]:
    """`POST /pauses/end`: code and body."""
    body = msgspec.json.encode({**WHO, "target": target, **more})
    status, _, answer = await chain.request("POST", f"{chain.stage}/pauses/end", body)
    return status, msgspec.json.decode(answer)


async def test_a_pause_that_is_ended_in_another_direction_is_named(chain: Chain) -> None:
    """At night nobody remembers how it was given: the refusal says so."""
    assert 200 == (await hold(chain, "externals.psp", direction="forward"))[0]
    status, problem = await resume(chain, "externals.psp")
    assert (404, "'externals.psp' is not paused in both directions: it is in forward") == (
        status,
        problem["detail"],
    )
    assert "--direction forward" in problem["hint"]
    status, problem = await resume(chain, "downstreams.shipping")
    assert (404, "stage pauses" in problem["hint"]) == (status, True)


async def test_a_paused_peer_gets_nothing_until_it_is_resumed(chain: Chain) -> None:
    """A saga waits at its step with no request at the provider, then goes on at once."""
    status, body = await hold(chain, "externals.psp")
    assert (200, ["externals.psp"]) == (status, [each["target"] for each in body["pauses"]])
    await chain.send("s-1", Prefer="respond-async, wait=0")
    await asyncio.sleep(0.5)
    assert (0, 0) == await chain.charges()
    assert "active" == (await chain.view("s-1"))["state"]
    assert (200, {"pauses": []}) == await resume(chain, "externals.psp")
    await chain.until("s-1", lambda saga: saga["state"] == "completed")
    assert (1, 1) == await chain.charges()


async def test_a_paused_direction_leaves_the_other_one_alone(chain: Chain) -> None:
    """Undoing is held while new charges go out."""
    await chain.send("s-1")
    assert 200 == (await hold(chain, "externals.psp", direction="backward"))[0]
    await chain.send("s-2")
    assert "completed" == (await chain.view("s-2"))["state"]
    assert 202 == (await chain.compensate("s-1", Prefer="respond-async, wait=0"))[0]
    await asyncio.sleep(0.5)
    assert (2, 2) == await chain.charges()
    assert 404 == (await resume(chain, "externals.psp"))[0]  # both directions were never held
    assert 200 == (await resume(chain, "externals.psp", direction="backward"))[0]
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (2, 1) == await chain.charges()


async def test_two_people_who_pause_the_same_see_each_other(chain: Chain) -> None:
    """The audit has what was replaced, and who looked at the first does not end the second."""
    _, first = await hold(chain, "externals.psp", actor="lee")
    _, second = await hold(chain, "externals.psp", 120.0, reason="their night")
    ((before,), (now,)) = first["pauses"], second["pauses"]
    newest, oldest = (await chain.get(f"{chain.stage}/audit?target=externals.psp"))["acts"]
    assert ("", f"both ways held until {before['until']}") == (oldest["before"], oldest["after"])
    assert f"both ways held until {before['until']} by lee" == newest["before"]

    status, problem = await resume(chain, "externals.psp", at=before["at"])
    assert 409 == status and "their night" in problem["detail"]
    assert (200, {"pauses": []}) == await resume(chain, "externals.psp", at=now["at"])


async def test_a_pause_ends_by_itself(chain: Chain) -> None:
    """Somebody who goes home after pressing it holds nothing for ever."""
    await hold(chain, "externals.psp", seconds=3.0)
    await chain.send("s-1", Prefer="respond-async, wait=0")
    assert (0, 0) == await chain.charges()
    await chain.until("s-1", lambda saga: saga["state"] == "completed")
    assert [] == (await chain.get(f"{chain.stage}/pauses"))["pauses"]


async def test_a_saga_that_is_held_beyond_its_deadline_turns_back(chain: Chain) -> None:
    """Nothing was sent, so nothing stands."""
    await hold(chain, "externals.psp")
    status, _, body = await chain.send("s-1", deadline=time.time() + 1.5)
    assert (409, "compensated") == (status, msgspec.json.decode(body)["outcome"])
    assert (0, 0) == await chain.charges()


async def test_new_sagas_are_refused_for_now_while_the_intake_is_paused(chain: Chain) -> None:
    """503 without the reason of the operator; those that are here go on, back and forward."""
    await chain.send("s-1")
    await hold(chain, "intake")
    status, headers, body = await chain.send("s-2")
    problem = msgspec.json.decode(body)
    assert (503, "not_executed", True) == (status, problem["outcome"], problem["retryable"])
    assert "Retry-After" in headers
    assert WHO["reason"] not in body.decode()
    assert 200 == (await chain.compensate("s-1"))[0]
    assert 410 == (await chain.send("s-1"))[0]  # a saga that is known is answered as before
    await resume(chain, "intake")
    assert 200 == (await chain.send("s-2"))[0]


async def test_a_pause_is_shown_wherever_a_saga_is(chain: Chain) -> None:
    """In the list, in the view of a saga that it holds, and as a metric."""
    await stuck(chain)
    _, body = await hold(chain, "externals.psp", direction="backward")
    (pause,) = body["pauses"]
    assert (WHO["actor"], WHO["reason"]) == (pause["actor"], pause["reason"])
    assert pause["until"] == (await chain.view("s-1"))["paused_until"]
    _, _, text = await chain.request("GET", f"{chain.stage}/metrics")
    assert 'stage_paused{direction="backward",target="externals.psp"} 1' in text.decode()
    acts = (await chain.get(f"{chain.stage}/audit?target=externals.psp"))["acts"]
    assert ["paused"] == [act["act"] for act in acts]
    await resume(chain, "externals.psp", direction="backward")
    acts = (await chain.get(f"{chain.stage}/audit?target=externals.psp"))["acts"]
    assert ["resumed", "paused"] == [act["act"] for act in acts]


async def held_undo(chain: Chain) -> dict[str, Any]:
    """A saga whose first refund is held; its verbs by name."""
    await chain.send("s-1")
    await hold(chain, "externals.psp", direction="backward")
    assert 202 == (await chain.compensate("s-1", Prefer="respond-async, wait=0"))[0]
    await chain.until("s-1", lambda saga: saga["paused_until"] is not None)
    shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
    return {each["verb"]: each for each in shown["verbs"]}


async def test_a_first_attempt_that_is_held_is_shown_with_its_pause(chain: Chain) -> None:
    """It waits nowhere yet, and a person has to see why nothing happens."""
    await held_undo(chain)
    saga = await chain.view("s-1")
    assert ("charge", "externals.psp") == (saga["step"], saga["peer"])
    said = f"compensating charge: externals.psp is paused until {saga['paused_until']}"
    assert said == saga["next_action"]


async def test_a_person_may_act_on_a_saga_that_is_held(chain: Chain) -> None:
    """Refunded by hand while the provider is down for a day: the held refund never leaves."""
    verbs = await held_undo(chain)
    assert {"retry", "compensate", "resolve", "abandon"} == {
        name for name, each in verbs.items() if each["why_not"] is None
    }
    assert ["charge"] == verbs["resolve"]["steps"]
    status, would = await do(chain, "s-1", "resolve", step="charge", dry_run=True)
    assert (200, "compensating") == (status, (await chain.view("s-1"))["state"])
    assert would["state"] in ("compensating", "compensated")

    status, _ = await do(chain, "s-1", "resolve", step="charge")

    assert 200 == status
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    await resume(chain, "externals.psp", direction="backward")
    assert (1, 1) == await chain.charges()
    assert "compensation_delayed" in await chain.events("s-1")


async def test_a_process_stops_although_a_saga_is_held(tmp_path: Path) -> None:
    """A deploy during a pause: the refund has not left, and waits again in the next process."""
    async with running_chain(tmp_path) as chain:
        await held_undo(chain)
    async with running_chain(tmp_path) as chain:
        journal = await chain.get(f"{chain.stage}/sagas/s-1?view=journal")
        (withdrawn,) = (
            entry for entry in journal["entries"] if entry["event"] == "compensation_delayed"
        )
        assert "withdrawn before it left" == withdrawn["reason"]
        await chain.until("s-1", lambda saga: saga["next_action"].startswith("compensating charge"))


async def test_a_verb_that_is_refused_takes_nothing_back(chain: Chain) -> None:
    """The held refund leaves at the end of the pause, and not later by its back-off."""
    await held_undo(chain)
    before = await chain.events("s-1")
    assert 409 == (await do(chain, "s-1", "settle", step="charge", landed=False))[0]
    assert before == await chain.events("s-1")
    await resume(chain, "externals.psp", direction="backward")
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert "compensation_delayed" not in await chain.events("s-1")


async def test_a_doubt_is_settled_while_its_repeat_is_held(chain: Chain) -> None:
    """The charge that nobody knows of: its probe waits for the end of the pause."""
    await chain.script(chain.psp, script="effect-then-hang")
    sending = asyncio.create_task(chain.send("s-1", Prefer="respond-async, wait=0"))
    await chain.until_charged()
    await hold(chain, "externals.psp")
    await sending
    await chain.until("s-1", lambda saga: saga["steps"][1]["phase"] == "probing")
    found = (await chain.get(f"{chain.psp}/charges"))["charges"]
    result = {"charge_id": found[0]["charge_id"]}
    shown = (await chain.get(f"{chain.stage}/sagas/s-1?view=verbs"))["verbs"]
    assert [["charge"]] == [each["steps"] for each in shown if each["verb"] == "settle"]
    status, problem = await do(chain, "s-1", "settle", step="charge", landed=True, result=result)
    assert 200 == status, problem
    await chain.until("s-1", lambda saga: saga["state"] == "completed")
    assert (1, 1) == await chain.charges()


async def test_a_pause_outlives_a_restart(tmp_path: Path) -> None:
    """The next process obeys it before anything leaves."""
    async with running_chain(tmp_path, drain_seconds=0.1) as chain:  # nothing can end
        await hold(chain, "externals.psp")
        await chain.send("s-1", Prefer="respond-async, wait=0")
    async with running_chain(tmp_path) as chain:
        await asyncio.sleep(0.5)
        assert (0, 0) == await chain.charges()
        await resume(chain, "externals.psp")
        await chain.until("s-1", lambda saga: saga["state"] == "completed")


@pytest.mark.parametrize(
    "target, order, word",
    [
        ("externals.bank", {}, "externals.psp"),
        ("psp", {}, "externals.psp"),
        ("intake", {"direction": "forward"}, "no direction"),
        ("intake", {"seconds": 0}, "more than 0"),
        ("intake", {"seconds": 1e9}, "at most 604800"),
        ("intake", {"reason": " "}, "must not be empty"),
        ("intake", {"minutes": 3}, "minutes"),
    ],
)
async def test_a_pause_that_would_hold_nothing_is_refused(
    chain: Chain, target: str, order: dict[str, Any], word: str
) -> None:
    """With what can be paused; nothing is held."""
    status, body = await hold(chain, target, **order)
    assert (422, True) == (status, word in body["detail"] + body["hint"]), body
    assert [] == (await chain.get(f"{chain.stage}/pauses"))["pauses"]


async def pressed_elsewhere(chain: Chain, seconds: float = 60.0) -> Pause:
    """A pause that another replica has written, of which this one has not read yet."""
    assert chain.app is not None
    store, now = chain.app[SERVICE].engine._store, time.time() + 0.01  # type: ignore[attr-defined]
    pause = Pause(
        target="externals.psp", at=now, until=now + seconds, actor="lee", reason="their outage"
    )
    await store.transact(lambda unit: unit.put_pause(pause))
    return pause


async def test_a_pause_that_was_just_pressed_elsewhere_can_be_ended(chain: Chain) -> None:
    """The list of this replica is up to a second old: it said that nothing was paused."""
    await pressed_elsewhere(chain)
    assert (200, {"pauses": []}) == await resume(chain, "externals.psp")
    assert [] == (await chain.get(f"{chain.stage}/pauses"))["pauses"]


async def test_a_pause_that_was_just_replaced_elsewhere_is_not_ended(chain: Chain) -> None:
    """The order names the one that its person saw; without a name it means whatever holds now."""
    _, body = await hold(chain, "externals.psp")
    await pressed_elsewhere(chain)
    status, problem = await resume(chain, "externals.psp", at=body["pauses"][0]["at"])
    assert (409, True) == (status, "lee has paused 'externals.psp' anew" in problem["detail"])
    assert ["lee"] == [
        each["actor"] for each in (await chain.get(f"{chain.stage}/pauses"))["pauses"]
    ]
    assert (200, {"pauses": []}) == await resume(chain, "externals.psp")
