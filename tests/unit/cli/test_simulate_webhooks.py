"""`stage simulate` says how many webhooks the stage believed, and fails where it believed none."""

from __future__ import annotations

import hashlib
import hmac
import re
import time

import msgspec
import pytest
from click.testing import CliRunner

from stage import Http, Landed, Saga, Stage, Webhook
from stage.cli.simulate import simulate
from stage.ports.stage import Answer
from stage.simulation import WEBHOOK_SECRET, ApiModel, ApiRequest, Effect, json_answer


class Order(msgspec.Struct):
    """The order to be paid."""

    amount: int


timed: Stage[Order, None] = Stage("timed", accepts=Order)


@timed.call(to="psp", timeout=1.0, pending_on={202}, pending_seconds_max=300.0)
async def charge(http: Http, saga: Saga[Order]) -> str:
    """Begun here, and ended by the webhook."""
    return str((await http.post("/charges", json={"amount": saga.input.amount})).json()["id"])


@charge.probe
async def find_charge(http: Http, saga: Saga[Order]) -> str | None:
    """It finds the end besides, so that sagas complete without any webhook."""
    answer = await http.get("/charges")
    if answer.status == 404 and answer.json()["code"] == "unknown_key":
        return None
    return str(answer.json()["id"])


@charge.webhook
def ended(hook: Webhook) -> Landed[str]:
    """Signed together with its time."""
    sent_at = hook.header("Psp-Time")
    hook.verify_hmac(hook.header("Psp-Signature"), signed=sent_at.encode() + hook.body)
    hook.verify_time(sent_at)
    said = hook.json()
    return Landed(result=said["id"], key=said["key"])


@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
    """By the key."""
    answer = await http.post("/refunds", json={"key": saga.key_of(charge)})
    assert "undone" in answer.json()


class Psp(ApiModel):
    """It goes by the clock of its world."""

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        """202, and the end a second later."""
        body = msgspec.json.encode({"key": request.key, "id": effect.name})
        sent_at = f"{self.now():.0f}"
        made = hmac.new(WEBHOOK_SECRET, sent_at.encode() + body, hashlib.sha256).hexdigest()
        headers = (("Psp-Time", sent_at), ("Psp-Signature", made))
        self.send_webhook(request.key, body, headers, after=1.0)
        return json_answer(202, {})


class Wrong(Psp):
    """It goes by the clock of the machine."""

    def now(self) -> float:
        """Not that of the world."""
        return time.time()


def simulated(model: type[ApiModel], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Two worlds with that model: the exit status and the text."""
    monkeypatch.setattr(f"{__name__}.apis", {"psp": model}, raising=False)
    few = ("--seeds", "2", "--sagas", "5", "--only", "delay")
    done = CliRunner().invoke(
        simulate, [f"{__name__}:timed", "--model", __name__, *few], standalone_mode=False
    )
    assert done.exception is None, done.exception
    return done.return_value, done.output


def test_webhooks_of_the_worlds_clock_are_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And are counted; the faults have the names that the options take."""
    status, said = simulated(Psp, monkeypatch)
    assert 0 == status, said
    assert re.search(r"webhooks   [1-9][0-9]* believed, 0 refused", said), said
    assert "everything holds" in said


def test_a_stage_that_refuses_every_webhook_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a webhook does was tried then; the fix is named."""
    status, said = simulated(Wrong, monkeypatch)
    assert 1 == status, said
    assert "webhooks   0 believed, " in said and "take its time from now()" in said
    assert "everything holds" not in said


def test_one_world_that_holds_says_what_happened_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sagas, faults and ends: an author sees that the seed did something."""
    monkeypatch.setattr(f"{__name__}.apis", {"psp": Psp}, raising=False)
    asked = [f"{__name__}:timed", "--model", __name__, "--seed", "1", "--sagas", "5"]
    done = CliRunner().invoke(simulate, [*asked, "--only", "delay"], standalone_mode=False)
    assert 0 == done.return_value, done.output
    for line in (
        r"seed 1    5 sagas, \d+ s",
        r"faults     delay [1-9].*",
        r"ended      .*completed [1-9].*",
        r"believed   .*executed [1-9].*",
        r"webhooks   [1-9]\d* believed, 0 refused",
        r"everything holds for 5 sagas",
    ):
        assert re.search(f"^{line}$", done.output, re.MULTILINE), done.output
