"""The operator's verbs on sagas that are really stuck (rule 14)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage, Tx
from stage.authoring.steps import CallStep
from stage.demo.payment import Order
from stage.engine.embedded.commands import EmbeddedCommands
from tests.scenario.chain import ORDER, Chain, running_chain

WHO = {"actor": "kim", "reason": "ticket 17"}


async def do(chain: Chain, saga_id: str, verb: str, **order: Any) -> tuple[int, Any]:
    body = msgspec.json.encode({**WHO, **order})
    status, _, answer = await chain.request("POST", f"{chain.stage}/sagas/{saga_id}/{verb}", body)
    return status, msgspec.json.decode(answer)


async def audit(chain: Chain, saga_id: str) -> list[tuple[str, str, str]]:
    entries = (await chain.get(f"{chain.stage}/sagas/{saga_id}?view=journal"))["entries"]
    return [(e["event"], e["actor"], e["why"]) for e in entries if "actor" in e]


async def stuck(chain: Chain) -> None:
    """A saga whose refund is declined for good."""
    await chain.send("s-1")
    await chain.script(chain.psp, script="refund-fails")
    status, _, _ = await chain.compensate("s-1")
    assert 409 == status


async def test_retry_undoes_what_had_failed_for_good(chain: Chain) -> None:
    """The provider refunds again: retry compensates, and compensate answers 200 from then on."""
    await stuck(chain)
    await chain.script(chain.psp, script="ok")
    status, _ = await do(chain, "s-1", "retry")
    assert 200 == status
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await chain.charges()
    assert 200 == (await chain.compensate("s-1"))[0]
    assert [("retried", "kim", "ticket 17")] == await audit(chain, "s-1")


async def test_each_verb_that_does_not_fit_says_what_does(chain: Chain) -> None:
    """A person at night reads why not, and which verb it is instead."""
    await stuck(chain)
    shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
    why_not = {each["verb"]: each["why_not"] for each in shown["verbs"]}
    assert {"retry", "resolve", "forget"} == {verb for verb, why in why_not.items() if why is None}
    assert why_not["compensate"].endswith("could not be undone: retry that, or resolve it")
    assert "no step of it is in doubt" == why_not["settle"]


async def test_resolve_counts_what_a_person_undid_as_undone(chain: Chain) -> None:
    """Refunded by hand: the saga ends compensated, with the audit row."""
    await stuck(chain)
    status, saga = await do(chain, "s-1", "resolve", step="charge")
    assert (200, "compensated", []) == (status, saga["state"], saga["stands"])
    assert [("resolved", "kim", "ticket 17")] == await audit(chain, "s-1")
    assert 200 == (await chain.compensate("s-1"))[0]


async def test_an_empty_step_is_not_every_step(chain: Chain) -> None:
    """A variable of a script that was not set: nothing is claimed, and nothing is sent anew."""
    await stuck(chain)
    for verb, order in (("resolve", {}), ("abandon", {}), ("retry", {"anew": True})):
        status, problem = await do(chain, "s-1", verb, step="", **order)
        assert (422, "`step` is empty") == (status, problem["detail"])
    assert [] == await audit(chain, "s-1")


async def test_resolve_notifies_the_upstream_that_could_not_be_notified(chain: Chain) -> None:
    """It still believes the 202: the saga is not off the list of a person before it has heard."""
    await chain.script(chain.shipping, script="refuse")
    await chain.script(chain.psp, script="refund-fails")
    assert 202 == (await chain.send("s-1", via="psp", Prefer="respond-async"))[0]
    await chain.until("s-1", lambda saga: saga["told_upstream"] == "refused")

    assert 200 == (await do(chain, "s-1", "resolve", step="charge"))[0]

    view = await chain.until("s-1", lambda saga: saga["told_upstream"] == "refused")
    assert ("compensated", "upstream_cannot") == (view["state"], view["parked_cause"])
    assert 2 == (await chain.events("s-1")).count("tell_refused")


async def test_a_dry_run_says_what_would_follow_and_changes_nothing(chain: Chain) -> None:
    """The journal is as long as before."""
    await stuck(chain)
    before = await chain.events("s-1")
    status, saga = await do(chain, "s-1", "retry", dry_run=True)
    assert (200, "compensating") == (status, saga["state"])
    assert "compensate charge" in saga["next_action"]
    assert before == await chain.events("s-1")


async def test_forget_gives_the_saga_up_and_leaves_a_tombstone(chain: Chain) -> None:
    """Both endpoints answer 410 with what stood; nothing runs again."""
    await stuck(chain)
    status, _ = await do(chain, "s-1", "forget")
    assert 200 == status
    code, _, body = await chain.compensate("s-1")
    assert (410, ["charge"]) == (code, msgspec.json.decode(body)["stands"])
    assert 410 == (await chain.send("s-1"))[0]
    assert 409 == (await do(chain, "s-1", "retry"))[0]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("closed", [False, True])
async def test_no_look_says_that_a_forgotten_saga_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turned: bool, closed: bool
) -> None:
    """Its state stays as it was; nothing happens any more that a caller could wait for."""
    if not closed:  # the process is lost between the verb and the closing
        monkeypatch.setattr(EmbeddedCommands, "_close", not_closed)
    async with running_chain(tmp_path, stage=undoable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        assert 202 == (await chain.send("s-1"))[0]
        await chain.until("s-1", lambda saga: saga["parked"])
        if turned:
            assert 202 == (await chain.compensate("s-1"))[0]
        _, before = await do(chain, "s-1", "forget", dry_run=True)
        assert "in_progress" == (await chain.view("s-1"))["outcome"]

        assert 200 == (await do(chain, "s-1", "forget"))[0]

        shown, url = await chain.view("s-1"), f"{chain.stage}/sagas"
        assert ("compensating" if turned else "active") == shown["state"]
        listed = (await chain.get(url))["sagas"]
        stages = (await chain.get(f"{url}/s-1?view=chain"))["stages"]
        looks = [before, shown, *listed, *(each for each in stages if each["stage"] == "payment")]
        assert ["unknown"] * 4 == [each["outcome"] for each in looks]
        answers = [
            await chain.send("s-1"),
            await chain.compensate("s-1"),
            await chain.send("s-1", {**ORDER, "amount": 999}),
        ]
        assert [410, 410, 422] == [status for status, _, _ in answers]
        outcomes = [msgspec.json.decode(body)["outcome"] for _, _, body in answers]
        assert ["unknown"] * 3 == outcomes


async def not_closed(self: EmbeddedCommands, saga_id: str) -> None:
    """In place of the closing."""


async def test_forget_changes_no_answer_of_a_saga_of_which_nothing_stands(chain: Chain) -> None:
    """It is 410 `compensated` for ever, to a duplicate and to who compensates it again."""
    await chain.send("s-1")
    assert 200 == (await chain.compensate("s-1"))[0]
    status, _, before = await chain.send("s-1")
    assert (410, "compensated") == (status, msgspec.json.decode(before)["outcome"])
    assert 200 == (await do(chain, "s-1", "forget"))[0]
    status, _, after = await chain.send("s-1")
    assert (410, before) == (status, after)
    code, _, body = await chain.compensate("s-1")
    assert (200, "compensated") == (code, msgspec.json.decode(body)["outcome"])


async def test_forget_closes_a_completed_saga_and_keeps_its_answer(chain: Chain) -> None:
    """Its payload is dropped; it stays executed, and cannot be undone any more."""
    status, _, before = await chain.send("s-1")
    assert 200 == status
    assert 200 == (await do(chain, "s-1", "forget"))[0]
    for _ in range(2):
        code, _, body = await chain.compensate("s-1")
        problem = msgspec.json.decode(body)
        assert (409, "executed") == (code, problem["outcome"])
        assert "closed it" in problem["detail"]  # its journal is dropped with its payload
        status, _, after = await chain.send("s-1")
        assert (200, before) == (status, after)
    assert (1, 1) == await chain.charges()


async def test_a_verb_that_does_not_fit_is_refused_with_the_reason(chain: Chain) -> None:
    """A completed saga has nothing to retry, settle or resolve; an unknown one is 404."""
    await chain.send("s-1")
    for verb, order in (("retry", {}), ("settle", {"step": "charge", "landed": False}),
                        ("resolve", {})):  # fmt: skip
        status, problem = await do(chain, "s-1", verb, **order)
        assert (409, "not_executed") == (status, problem["outcome"]), verb
    assert 404 == (await do(chain, "s-2", "retry"))[0]


async def test_a_reason_has_a_limit(chain: Chain) -> None:
    """422, and nothing is journaled: with 65,000 characters each, a view took 79 MB."""
    await chain.send("s-1")
    before = await chain.events("s-1")
    status, problem = await do(chain, "s-1", "retry", reason="x" * 1_001)
    assert (422, True) == (status, "1000 characters" in problem["hint"]), problem
    assert before == await chain.events("s-1")


async def test_a_verb_needs_an_actor_and_a_reason(chain: Chain) -> None:
    """422 otherwise: an audit row that says nothing is none."""
    await stuck(chain)
    status, problem = await do(chain, "s-1", "retry", reason=" ")
    assert (422, "not_executed") == (status, problem["outcome"])


def unrepeatable() -> Stage[Order, Order]:
    """A call to an API without idempotency and without a probe: a doubt waits for a person."""
    stage: Stage[Order, Order] = Stage("payment", accepts=Order)

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def note(tx: Tx, saga: Saga[Order]) -> None:
        pass

    @stage.call(
        to="psp", timeout=1.0, idempotent=False, compensation=None, reason="no test undoes it"
    )
    async def charge(http: Http, saga: Saga[Order]) -> dict[str, str]:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        return {"id": answer.json()["id"]}

    return stage


def undoable() -> Stage[Order, Order]:
    """The same, and the call can be undone: only once it is known whether it landed."""
    stage = unrepeatable()
    charge = stage.steps[1]
    assert isinstance(charge, CallStep)
    charge.reason = ""

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: dict[str, str] | None) -> None:
        raise AssertionError("nobody said yet whether there is anything to refund")

    return stage


async def test_a_repeated_request_does_not_stir_a_parked_saga(tmp_path: Path) -> None:
    """Neighbours ask until they are answered: one entry for the first, none for the others."""
    async with running_chain(tmp_path, stage=undoable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        assert 202 == (await chain.send("s-1"))[0]
        await chain.until("s-1", lambda saga: saga["parked"])
        assert 202 == (await chain.compensate("s-1"))[0]
        asked = await chain.events("s-1")
        assert ["recovered", "compensation_requested", "parked"] == asked[-3:]
        for by in ("order", "shipping", "order"):
            assert 202 == (await chain.compensate("s-1", by=by))[0]
        assert asked == await chain.events("s-1")
        assert (await chain.view("s-1"))["parked"]
        plan = await chain.get(f"{chain.stage}/sagas/s-1?view=plan")
        prospects = {line["step"]: line["prospect"] for line in plan["steps"]}
        assert "settle_first" == prospects["charge"]


async def test_settle_as_landed_lets_the_saga_go_on(tmp_path: Path) -> None:
    """In doubt, never repeated, parked; the operator looks it up and says that it landed."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        status, _, _ = await chain.send("s-1")
        assert 202 == status
        view = await chain.until("s-1", lambda saga: saga["parked"])
        assert "charge is in doubt" in view["parked_reason"]
        assert (1, 1) == await chain.charges()
        order = {"step": "charge", "landed": True, "result": {"id": 7}}
        status, refusal = await do(chain, "s-1", "settle", **order)  # not what charge returns
        assert 422 == status and "--result JSON" in refusal["hint"]
        assert "would have returned it" in refusal["hint"]
        order["result"] = {"id": "ch_000001"}
        assert 200 == (await do(chain, "s-1", "settle", **order))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert 200 == (await chain.send("s-1"))[0]
        assert (1, 1) == await chain.charges()


async def test_a_saga_without_a_doubt_asks_for_no_result_of_it(chain: Chain) -> None:
    """The reason comes first: a result that is wrong as well is not asked for again."""
    await chain.send("s-1")
    status, refusal = await do(chain, "s-1", "settle", step="charge", landed=True)
    assert 409 == status and "no step of it is in doubt" in refusal["detail"]


async def test_settle_as_not_landed_repeats_the_call(tmp_path: Path) -> None:
    """The operator found nothing: the call is made once more."""
    async with running_chain(tmp_path, stage=unrepeatable()) as chain:
        await chain.script(chain.psp, script="error", times=1)
        await chain.send("s-1")
        await chain.until("s-1", lambda saga: saga["parked"])
        assert 200 == (await do(chain, "s-1", "settle", step="charge", landed=False))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert (1, 1) == await chain.charges()


async def test_plan_shows_what_a_compensation_would_do(chain: Chain) -> None:
    """Downstream first, then the charge, then the reservation; nothing happens."""
    await chain.send("s-1")
    plan = await chain.get(f"{chain.stage}/sagas/s-1?view=plan")
    lines = [(line["step"], line["prospect"]) for line in plan["steps"]]
    assert [
        ("forward:shipping", "compensate"),
        ("record", "nothing"),
        ("charge", "compensate"),
        ("reserve", "compensate"),
    ] == lines
    assert (1, 1) == await chain.charges()


async def test_behind_the_pivot_no_step_is_offered_to_be_abandoned(tmp_path: Path) -> None:
    """A saga there is abandoned whole: the verb is offered so, and a step is refused."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", pivot=True, idempotent=True)
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges", json={"amount": saga.input.amount})

    @stage.output
    def receipt(saga: Saga[Order]) -> dict[str, int]:
        raise ValueError("no such template")

    async with running_chain(tmp_path, stage=stage) as chain:
        await chain.send("s-1", Prefer="respond-async, wait=0")
        await chain.until("s-1", lambda saga: saga["parked"])
        shown = (await chain.get(f"{chain.stage}/sagas/s-1?view=verbs"))["verbs"]
        (abandon,) = [each for each in shown if each["verb"] == "abandon"]
        assert (None, []) == (abandon["why_not"], abandon["steps"])
        status, problem = await do(chain, "s-1", "abandon", step="charge")
        assert (409, True) == (status, "abandon it whole" in problem["detail"])
        assert 200 == (await do(chain, "s-1", "abandon"))[0]
