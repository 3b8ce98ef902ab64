"""A card payment whose end comes by a webhook: early, twice, never verified, after a restart."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog.testing

from stage import Declined, Http, Landed, Pending, Saga, Stage, Webhook
from stage.demo.payment import Order
from stage.ports.connection import Connection
from tests.scenario.chain import Chain, running_chain
from tests.scenario.test_window import closed

SECRET = "whsec-1"


def stage_of(by: str = "key") -> Stage[Order, Any]:
    """A call without a probe: nothing but the webhook tells how it ends."""
    stage: Stage[Order, Any] = Stage(
        "payment", accepts=Order, indexed={"order": "order_id"} if by == "number" else None
    )

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        await http.post("/charges", json={"amount": saga.input.amount})
        raise Pending("the customer confirms")

    @charge.webhook
    def ended(hook: Webhook) -> Landed[str] | Declined | None:
        sent_at = hook.header("Psp-Time")
        hook.verify_hmac(hook.header("Psp-Signature"), signed=sent_at.encode() + hook.body)
        hook.verify_time(sent_at)
        said = hook.json()
        where: dict[str, Any] = {by: said[by] if by == "key" else ("order", said["order"])}
        match said["type"]:
            case "charge.succeeded":
                return Landed(result=said["id"], **where)
            case "charge.failed":
                return Declined(reason="not authenticated", **where)
            case _:
                return None

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": None})

    return stage


def verified(folder: Path) -> Callable[[str, str], str | Connection]:
    """The psp with the secret of its webhooks, while it is rotated."""
    path = folder / "psp.webhook"
    path.write_text(f"whsec-old\n{SECRET}\n")
    path.chmod(0o600)

    def connect(name: str, url: str) -> str | Connection:
        return Connection(url=url, webhook_secret_file=str(path)) if name == "psp" else url

    return connect


async def hook(
    chain: Chain, *, secret: str = SECRET, late: float = 0.0, to: str = "psp", **said: Any
) -> int:
    """Send a webhook as the psp would; the code that it is answered with."""
    body, sent_at = msgspec.json.encode(said), str(time.time() - late)
    signature = hmac.new(secret.encode(), sent_at.encode() + body, hashlib.sha256).hexdigest()
    headers = {"Psp_Time": sent_at, "Psp_Signature": signature}
    return (await chain.request("POST", f"{chain.stage}/webhooks/{to}", body, **headers))[0]


def landed(saga_id: str) -> dict[str, Any]:
    """The psp's word on a charge that was made."""
    return {"type": "charge.succeeded", "id": "ch-1", "key": f"{saga_id}:payment:charge:do"}


async def test_a_webhook_ends_a_pending_payment_once(tmp_path: Path) -> None:
    """Twice, of an unknown saga, of another event and late after the end: 200, and nothing."""
    async with running_chain(tmp_path, stage=stage_of(), connect=verified(tmp_path)) as chain:
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]

        assert 200 == await hook(chain, **landed("s-1"))
        await chain.until("s-1", lambda view: view["state"] == "completed")
        before = await chain.events("s-1")
        assert 200 == await hook(chain, **landed("s-1"))
        assert 200 == await hook(chain, **landed("s-2"))
        assert 200 == await hook(chain, type="charge.updated", key="")

        assert before == await chain.events("s-1")
        assert 1 == before.count("webhook_found")
        assert (1, 1) == await chain.charges()
        assert 200 == (await chain.send("s-1"))[0]
        assert await chain.get(f"{chain.stage}/sagas/s-2") is None


async def test_a_no_behind_a_yes_changes_nothing_and_is_logged(tmp_path: Path) -> None:
    """It may only have been overtaken; a person reads that the API contradicts itself."""
    with structlog.testing.capture_logs() as lines:
        async with running_chain(tmp_path, stage=stage_of(), connect=verified(tmp_path)) as chain:
            assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
            assert 200 == await hook(chain, **landed("s-1"))
            await chain.until("s-1", lambda view: view["state"] == "completed")
            before = await chain.events("s-1")
            assert 200 == await hook(chain, **landed("s-1"))
            assert "webhook_contradicts" not in [line["event"] for line in lines]
            assert 200 == await hook(chain, **{**landed("s-1"), "type": "charge.failed"})
            assert before == await chain.events("s-1")
            trace_id = (await chain.view("s-1"))["trace_id"]
    (line,) = [line for line in lines if line["event"] == "webhook_contradicts"]
    assert ("warning", "s-1", "charge") == (line["log_level"], line["saga_id"], line["step"])
    assert trace_id == line["trace_id"]


async def test_a_webhook_that_proves_nothing_is_refused(tmp_path: Path) -> None:
    """A wrong signature, an old one replayed, an API that has none: the saga stays pending."""
    async with running_chain(tmp_path, stage=stage_of(), connect=verified(tmp_path)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        before = await chain.events("s-1")

        assert 401 == await hook(chain, secret="guessed", **landed("s-1"))
        assert 401 == await hook(chain, late=3_600.0, **landed("s-1"))
        assert 404 == await hook(chain, to="bank", **landed("s-1"))

        assert before == await chain.events("s-1")
        assert "pending" == (await chain.view("s-1"))["steps"][0]["phase"]


async def test_a_webhook_before_the_answer_waits_for_it(tmp_path: Path) -> None:
    """The answer is lost; no second charge is tried, and the payment goes on."""
    async with running_chain(tmp_path, stage=stage_of(), connect=verified(tmp_path)) as chain:
        await chain.script(chain.psp, script="effect-then-hang", times=1)
        assert 202 == (await chain.send("s-1", Prefer="respond-async"))[0]
        await chain.until_charged()
        assert 200 == await hook(chain, **landed("s-1"))

        await chain.until("s-1", lambda view: view["state"] == "completed")
        events = await chain.events("s-1")
        assert events.index("webhook_found") < events.index("step_in_doubt")
        assert (1, 1) == await chain.charges()


async def test_a_webhook_after_a_restart_finds_its_payment(tmp_path: Path) -> None:
    """The process that waited is gone; a payment that the customer failed is a business no."""
    connect = verified(tmp_path)
    async with running_chain(tmp_path, stage=stage_of(), connect=connect) as chain:
        for saga_id in ("s-1", "s-2"):
            assert 202 == (await chain.send(saga_id))[0]
    async with running_chain(tmp_path, stage=stage_of(), connect=connect) as chain:
        assert 200 == await hook(chain, **landed("s-1"))
        assert 200 == await hook(chain, **{**landed("s-2"), "type": "charge.failed"})
        await chain.until("s-1", lambda view: view["state"] == "completed")
        await chain.until("s-2", lambda view: view["state"] == "compensated")
        assert 409 == (await chain.send("s-2"))[0]
        assert (0, 0) == await chain.charges()  # of the new API: nothing was asked for again


async def test_a_webhook_is_matched_by_a_business_number(tmp_path: Path) -> None:
    """An API that does not send the key back; two sagas of one number that wait are refused."""
    stage = stage_of("number")
    async with running_chain(tmp_path, stage=stage, connect=verified(tmp_path)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        said: dict[str, Any] = {"type": "charge.succeeded", "id": "ch-1", "order": "o-1"}
        assert 200 == await hook(chain, **said)
        await chain.until("s-1", lambda view: view["state"] == "completed")

        for saga_id in ("s-2", "s-3"):
            assert 202 == (await chain.send(saga_id))[0]
        assert 409 == await hook(chain, **said)
        assert "pending" == (await chain.view("s-2"))["steps"][0]["phase"]


async def test_a_query_that_waits_is_answered_when_the_webhook_has_come(tmp_path: Path) -> None:
    """A pending saga is not in memory; its end is noticed all the same."""
    async with running_chain(tmp_path, stage=stage_of(), connect=verified(tmp_path)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        url = f"{chain.stage}/sagas/s-1"
        _, _, body = await chain.request("GET", url, Prefer="wait=0")
        assert "active" == msgspec.json.decode(body)["state"]

        assert 200 == await hook(chain, **landed("s-1"))
        _, _, body = await chain.request("GET", url, Prefer="wait=20")
        assert "completed" == msgspec.json.decode(body)["state"]


async def test_a_charge_that_was_refused_and_landed_is_refunded(tmp_path: Path) -> None:
    """The function took the page of a gateway for a no; the psp's own word comes behind it."""
    stage = stage_of()
    async with running_chain(tmp_path, stage=stage, connect=verified(tmp_path)) as chain:
        await chain.script(chain.psp, script="refuse")
        assert 202 == (await chain.send("s-1"))[0]
        assert 200 == await hook(chain, **{**landed("s-1"), "type": "charge.failed"})
        await chain.until("s-1", lambda view: view["state"] == "compensated")

        assert 200 == await hook(chain, **landed("s-1"))
        await chain.until("s-1", lambda view: view["steps"][0]["phase"] == "compensated")
        await chain.until("s-1", lambda view: view["state"] == "compensated")
        before = await chain.events("s-1")
        assert 200 == await hook(chain, **landed("s-1"))
        assert before == await chain.events("s-1")
        assert 409 == (await chain.send("s-1"))[0]


async def order(chain: Chain, verb: str) -> int:
    """The code of a verb of an operator."""
    body = msgspec.json.encode({"actor": "kim", "reason": "looked at the psp"})
    return (await chain.request("POST", f"{chain.stage}/sagas/s-1/{verb}", body))[0]


async def test_a_yes_of_a_closed_saga_waits_for_a_person(tmp_path: Path) -> None:
    """All that an undo would need is dropped: it is parked, until a person has undone it there."""
    options: dict[str, Any] = {"compensation_window_seconds": 0.0}
    connect = verified(tmp_path)
    async with running_chain(tmp_path, stage=stage_of(), connect=connect, **options) as chain:
        await chain.script(chain.psp, script="refuse")
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
        assert 200 == await hook(chain, **{**landed("s-1"), "type": "charge.failed"})
        await chain.until("s-1", lambda view: view["state"] == "compensated")
        await closed(tmp_path / "payment.db")
        assert 200 == await hook(chain, **{**landed("s-1"), "key": "s-1:payment:fee:do"})
        assert 200 == await hook(chain, **{**landed("s-1"), "type": "charge.failed"})
        assert not (await chain.view("s-1"))["parked"]

        for _ in range(2):
            assert 200 == await hook(chain, **landed("s-1"))
            view = await chain.view("s-1")
            assert ("failed_to_compensate", "landed_late") == (view["state"], view["parked_cause"])
            assert ("charge", "externals.psp") == (view["step"], view["peer"])
            assert "s-1:payment:charge:do" in view["parked_reason"]
        _, _, body = await chain.send("s-1")
        answer = msgspec.json.decode(body)
        assert ("unknown", ["charge"]) == (answer["outcome"], answer["stands"])
        assert [409] * 3 == [await order(chain, verb) for verb in ("retry", "resolve", "erase")]

        assert 200 == await order(chain, "forget")
        assert 200 == await hook(chain, **landed("s-1"))
        view = await chain.view("s-1")
        assert ("failed_to_compensate", False) == (view["state"], view["parked"])
        assert [] == await chain.events("s-1")
        assert 410 == (await chain.send("s-1"))[0]
        assert 200 == await order(chain, "erase")


async def test_a_yes_by_number_is_not_taken_for_that_of_an_order_that_was_refused(
    tmp_path: Path,
) -> None:
    """The customer tries the order again as another saga, which alone waits for the webhook."""
    stage = stage_of("number")
    async with running_chain(tmp_path, stage=stage, connect=verified(tmp_path)) as chain:
        said: dict[str, Any] = {"type": "charge.failed", "id": "ch-1", "order": "o-1"}
        assert 202 == (await chain.send("s-1"))[0]
        assert 200 == await hook(chain, **said)
        await chain.until("s-1", lambda view: view["state"] == "compensated")
        assert 202 == (await chain.send("s-2"))[0]
        assert 200 == await hook(chain, **{**said, "type": "charge.succeeded"})
        await chain.until("s-2", lambda view: view["state"] == "completed")
        assert "compensated" == (await chain.view("s-1"))["state"]
