"""A payment that waits for a person: 202 upstream, approve, reject, restart, the audit."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from stage import Approval, Http, Saga, Stage
from stage.demo.payment import Order
from stage.wire.envelope import parse_instant
from tests import forked
from tests.scenario.attacks.names import named_chain, shown_by, token_of
from tests.scenario.chain import Chain, running_chain
from tests.scenario.test_console import Fields, press
from tests.scenario.test_metrics import scrape

WHO = {"actor": "kim", "reason": "known customer"}


def stage_of(**rules: Any) -> Stage[Order, Any]:
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.approval("risk", **rules)
    def risk(saga: Saga[Order]) -> dict[str, int] | None:
        return {"amount": saga.input.amount} if saga.input.amount >= 100 else None

    @stage.call(to="psp", timeout=0.5)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        approval: Approval | None = saga.result(risk)
        return "nobody was asked" if approval is None else f"{approval.by} {answer.status}"

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": None})

    return stage


async def decide(chain: Chain, verb: str, **order: Any) -> tuple[int, Any]:
    body = msgspec.json.encode({**WHO, "step": "risk", **order})
    status, _, answer = await chain.request("POST", f"{chain.stage}/sagas/s-1/{verb}", body)
    return status, msgspec.json.decode(answer)


async def verbs(chain: Chain) -> dict[str, Any]:
    shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
    return {each["verb"]: each for each in shown["verbs"]}


async def test_an_approved_saga_goes_on_and_the_audit_says_who_and_why(tmp_path: Path) -> None:
    """Upstream is answered 202 at once; nothing is charged before the yes."""
    async with running_chain(tmp_path, stage=stage_of(timeout=86_400.0)) as chain:
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
        step = (await chain.view("s-1"))["steps"][0]
        assert ("approval", "awaiting_approval") == (step["kind"], step["phase"])
        assert 86_400.0 == step["timeout_seconds"]
        assert (0, 0) == await chain.charges()
        choice = (await verbs(chain))["approve"]
        assert (None, ["risk"], {"amount": 100}) == (
            choice["why_not"],
            choice["steps"],
            choice["shown"],
        )

        assert 200 == (await decide(chain, "approve", dry_run=True))[0]
        assert (0, 0) == await chain.charges()
        assert 200 == (await decide(chain, "approve"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")

        assert 200 == (await chain.send("s-1"))[0]
        assert (1, 1) == await chain.charges()
        standings = [step["standing"] for step in (await chain.view("s-1"))["steps"]]
        assert ["nothing", "stands"] == standings[:2]
        (act,) = (await chain.get(f"{chain.stage}/audit?target=s-1"))["acts"]
        assert ("kim", "approved", "known customer") == (act["actor"], act["act"], act["reason"])
        assert "waits at risk" in act["before"]


async def test_a_rejected_saga_turns_back_and_neighbours_read_no_name(tmp_path: Path) -> None:
    """Nothing was charged, and 409 says that nothing stands."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        assert 200 == (await decide(chain, "reject", reason="a stranger's card"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")

        status, _, body = await chain.send("s-1")
        assert 409 == status
        assert b"the approval was rejected" in body
        assert b"stranger" not in body and b"kim" not in body
        assert (0, 0) == await chain.charges()
        assert 409 == (await decide(chain, "approve"))[0]


async def test_silence_turns_it_back(tmp_path: Path) -> None:
    """By its time-out."""
    async with running_chain(tmp_path, stage=stage_of(timeout=0.2)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        view = await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert "the approval was not given in time" in view["reason"]
        assert (0, 0) == await chain.charges()


async def test_a_small_payment_asks_nobody(tmp_path: Path) -> None:
    """The author's function shows nothing."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        small = {"order_id": "o-1", "amount": 99, "currency": "KRW"}
        assert 200 == (await chain.send("s-1", small))[0]
        assert (1, 1) == await chain.charges()
        assert "approval_asked" not in await chain.events("s-1")


async def test_it_outlives_its_process_and_is_decided_in_the_next(tmp_path: Path) -> None:
    """The same words are shown there."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1"))[0]
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert {"amount": 100} == (await verbs(chain))["approve"]["shown"]
        assert 200 == (await decide(chain, "approve"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert (1, 1) == await chain.charges()


async def test_a_saga_behind_its_pivot_does_not_say_that_a_yes_stands(tmp_path: Path) -> None:
    """A neighbour reads the effects alone."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.approval("risk")
    def risk(saga: Saga[Order]) -> dict[str, int]:
        return {"amount": saga.input.amount}

    @stage.call(to="psp", pivot=True, compensation=None, reason="the pivot")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges", json={"amount": saga.input.amount})

    async with running_chain(tmp_path, stage=stage) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        assert 200 == (await decide(chain, "approve"))[0]
        view = await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert "nothing" == {each["name"]: each["standing"] for each in view["steps"]}["risk"]
        status, _, body = await chain.compensate("s-1")
        stands = msgspec.json.decode(body)["stands"]
        assert (409, True, False) == (status, "charge" in stands, "risk" in stands), stands


async def test_an_upstream_that_gives_up_ends_the_wait(tmp_path: Path) -> None:
    """The late yes is answered 409, with why."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        assert 200 == (await chain.compensate("s-1"))[0]
        status, problem = await decide(chain, "approve")
        assert (409, True) == (status, "compensated" in problem["detail"])
        assert (0, 0) == await chain.charges()


async def test_a_decision_names_its_step_and_its_reason(tmp_path: Path) -> None:
    """Otherwise nothing is decided."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        assert 422 == (await decide(chain, "approve", step=""))[0]
        assert 422 == (await decide(chain, "approve", reason=" "))[0]
        assert 409 == (await decide(chain, "approve", step="charge"))[0]
        assert "awaiting_approval" == (await chain.view("s-1"))["steps"][0]["phase"]


async def test_the_command_line_lists_approves_and_rejects(tmp_path: Path) -> None:
    """Once each; a second decision ends with the reason and the status of a no."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:

        async def command(*arguments: str) -> tuple[int, str]:
            done = await asyncio.to_thread(forked.stage, *arguments, "--url", chain.stage)
            return done.status, done.out + done.err

        why = ("--step", "risk", "--reason", "ticket 17", "--actor", "kim")
        assert (0, "nothing waits for an approval\n") == await command("approvals")
        for saga_id in ("s-1", "s-2"):
            assert 202 == (await chain.send(saga_id))[0]
        status, said = await command("approvals")
        assert (0, 2, 2) == (status, said.count("risk"), said.count('{"amount":100}')), said

        status, said = await command("approve", "s-1", "--dry-run", *why)
        assert (0, True) == (status, "s-1 would be active; next: execute charge" in said), said
        assert 0 == (await command("approve", "s-1", *why))[0]
        assert 0 == (await command("reject", "s-2", *why))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        await chain.until("s-2", lambda saga: saga["state"] == "compensated")
        status, said = await command("reject", "s-1", *why)
        assert (1, True) == (status, "no approval is asked for" in said), said
        assert (0, "nothing waits for an approval\n") == await command("approvals")
        assert (1, 1) == await chain.charges()


async def test_the_words_of_a_stranger_drive_no_terminal(tmp_path: Path) -> None:
    """They are printed for the person who approves, on one line and in their own order."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.approval("risk")
    def risk(saga: Saga[Order]) -> dict[str, str]:
        return {"order": saga.input.order_id}

    async with running_chain(tmp_path, stage=stage) as chain:
        evil = {"order_id": "o\u009b2K\u202eevil", "amount": 100, "currency": "KRW"}
        assert 202 == (await chain.send("s-1", evil))[0]
        done = await asyncio.to_thread(forked.stage, "approvals", "--url", chain.stage)
        assert "risk" in done.out and "evil" in done.out, done
        assert "\u009b" not in done.out and "\u202e" not in done.out, ascii(done.out)


async def test_a_viewer_sees_that_something_waits_and_why_not_for_her(tmp_path: Path) -> None:
    """The words for the person are for those who may decide."""
    async with named_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1", Authorization=shown_by("order")))[0]
        for name, shows in (("vera", False), ("olga", True)):
            token = tmp_path / name
            token.write_text(token_of(name))
            token.chmod(0o600)
            own = ("--url", chain.stage, "--token-file", str(token))
            done = await asyncio.to_thread(forked.stage, "approvals", *own)
            assert (0, True) == (done.status, done.out.startswith("s-1  risk  until 20")), done
            assert shows is ('{"amount":100}' in done.out), done
            assert shows is ("may not do this" not in done.out), done


async def test_the_console_shows_what_waits_and_its_buttons_decide(tmp_path: Path) -> None:
    """First a preview of both states, then the act; afterwards the buttons are gone."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        fields = {**WHO, "verb": "approve", "step": "risk", "press": "preview"}
        status, _, page = await press(chain, "/sagas/s-1", fields)
        assert (200, True) == (status, "awaiting approval" in page and "succeeded" in page), page
        assert (0, 0) == await chain.charges()

        act = [*Fields(page).hidden, ("press", "act")]
        status, headers, _ = await press(chain, "/sagas/s-1", act)
        assert (303, "/console/sagas/s-1?did=approve") == (status, headers["Location"])
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        _, _, body = await chain.request("GET", f"{chain.stage}/console/sagas/s-1")
        assert b"waits for a person" not in body
        assert b"<strong>approve</strong>, not now: no step of it awaits approval" in body


async def test_the_words_for_the_person_are_for_operators_alone(tmp_path: Path) -> None:
    """No journal page, no view of a neighbour has them."""
    async with running_chain(tmp_path, stage=stage_of()) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        for view in ("", "?view=journal"):
            _, _, body = await chain.request("GET", f"{chain.stage}/sagas/s-1{view}")
            assert b"shown" not in body and b"amount" not in body
        _, _, page = await chain.request("GET", f"{chain.stage}/console/sagas/s-1")
        assert b"<dt>amount</dt><dd>100</dd>" in page
        assert b"Step risk waits for a person" in page


async def test_an_approval_that_waits_is_counted_until_it_is_decided(tmp_path: Path) -> None:
    """By the metrics, `/now`, the groups and the console, with the end of the wait.

    Nobody is told that a peer does not answer: the saga is not the oldest under way.
    """
    async with running_chain(tmp_path, stage=stage_of(timeout=86_400.0)) as chain:
        before = await scrape(chain)
        assert 202 == (await chain.send("s-1"))[0]
        (waits,) = (await chain.get(f"{chain.stage}/now"))["approvals"]
        asked = parse_instant(waits["oldest_asked_at"])
        assert ("risk", 1) == (waits["step"], waits["sagas"])
        assert 86_390.0 < parse_instant(waits["first_ends_at"]) - asked < 86_410.0
        (group,) = (await chain.get(f"{chain.stage}/groups"))["groups"]
        assert (True, None, "risk") == (group["approval"], group["parked_cause"], group["step"])
        _, _, page = await chain.request("GET", f"{chain.stage}/console")
        assert b"1 wait for a person to approve risk</a>, the oldest for" in page
        _, _, page = await chain.request("GET", f"{chain.stage}/console/parked")
        assert b"awaits approval" in page
        during = await scrape(chain)
        assert 200 == (await decide(chain, "approve"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        after = await scrape(chain)
        assert [] == (await chain.get(f"{chain.stage}/now"))["approvals"]
    counts = [each.value("stage_approvals", step="risk") for each in (before, during, after)]
    assert [0, 1, 0] == counts
    ages = [each.value("stage_oldest_approval_seconds", step="risk") for each in (before, after)]
    assert [0, 0] == ages
    age = during.value("stage_oldest_approval_seconds", step="risk")
    left = during.value("stage_approval_expiry_seconds", step="risk")
    assert age is not None and 0 < age < 60
    assert left is not None and 86_340 < left <= 86_400
    assert after.value("stage_approval_expiry_seconds", step="risk") is None
    assert 0 == during.value("stage_oldest_unfinished_seconds")
