"""One webhook that several functions read: of two versions, of two calls, of an API renamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Landed, Pending, Saga, Stage, Webhook
from stage.demo.payment import Order
from stage.ports.connection import Connection
from tests.scenario.chain import Chain, running_chain
from tests.scenario.releases import World, world_around
from tests.scenario.test_webhook import hook, landed, verified

Said = dict[str, Any]
Read = Callable[[Said], Landed[Any] | None]


class Charged(msgspec.Struct):
    """The result of the first version."""

    charge_id: str


class Paid(msgspec.Struct):
    """That of the second one, which the first cannot read."""

    receipt: str


def by_charge(said: Said) -> Landed[Any]:
    """The first version's word."""
    return Landed(result=Charged(charge_id=said["id"]), key=said["key"])


def by_receipt(said: Said) -> Landed[Any]:
    """The second one's: it has no other word for a payload of before."""
    return Landed(result=Paid(receipt=said.get("receipt", "none")), key=said["key"])


def by_receipt_alone(said: Said) -> Landed[Any]:
    """The same, and it raises for a payload of before."""
    return Landed(result=Paid(receipt=said["receipt"]), key=said["key"])


def a_call(
    stage: Stage[Order, Any],
    name: str,
    kind: type[Any],
    reads: Read,
    *,
    to: str = "psp",
    signed: str = "Psp-Signature",
) -> None:
    """A call of that name which is pending until its webhook comes."""

    async def asked(http: Http, saga: Saga[Order]) -> Any:
        await http.post("/charges", json={"amount": saga.input.amount})
        raise Pending("the customer confirms")

    def ended(said: Webhook) -> Landed[Any] | None:
        said.verify_hmac(said.header(signed), signed=said.header("Psp-Time").encode() + said.body)
        return reads(said.json())

    async def refund(http: Http, saga: Saga[Order], made: Any) -> None:
        await http.post("/refunds", json={"key": saga.key_of(call), "charge_id": None})

    asked.__name__ = name
    asked.__annotations__["return"] = kind
    call = stage.call(to=to, timeout=2.0)(asked)
    call.webhook(ended)
    call.compensation(refund)


def release(reads: Read, kind: type[Any], to: str = "psp", **lineage: Any) -> Stage[Order, Any]:
    """One version: a charge whose end its function reads."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order, **lineage)
    a_call(stage, "charge", kind, reads, to=to)
    return stage


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The world around the stage."""
    async with world_around(tmp_path) as made:
        yield made


def at(world: World, folder: Path, *names: str) -> dict[str, Any]:
    """Those names of the API in the settings, each with the secret of its webhooks."""
    connect = verified(folder)
    psp = connect("psp", world.chain.psp)
    assert isinstance(psp, Connection)
    return {"externals": dict.fromkeys(names, psp)}


@pytest.mark.parametrize("newest", [by_receipt, by_receipt_alone])
async def test_a_webhook_is_read_by_the_version_of_its_saga(
    world: World, tmp_path: Path, newest: Read
) -> None:
    """The newest version's result could not be read by the undo, or its exception was a 500."""
    before = release(by_charge, Charged)
    async with world.release(before, **at(world, tmp_path, "psp")) as chain:
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
    after = release(newest, Paid, version=2, supersedes=before)
    async with world.release(after, **at(world, tmp_path, "psp")) as chain:
        assert 200 == await hook(chain, **landed("s-1"))
        await chain.until("s-1", lambda view: view["state"] == "completed")
        assert 200 == (await chain.compensate("s-1"))[0]

        assert 202 == (await chain.send("s-2", Prefer="wait=10"))[0]
        assert 200 == await hook(chain, **landed("s-2"), receipt="r-2")
        await chain.until("s-2", lambda view: view["state"] == "completed")


async def test_a_number_of_sagas_of_two_versions_is_ambiguous(world: World, tmp_path: Path) -> None:
    """Each version's word finds its own saga, and only one of the two is meant."""
    before = release(by_number, Charged, indexed={"order": "order_id"})
    async with world.release(before, **at(world, tmp_path, "psp")) as chain:
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
    after = release(by_number, Charged, indexed={"order": "order_id"}, version=2, supersedes=before)
    async with world.release(after, **at(world, tmp_path, "psp")) as chain:
        assert 202 == (await chain.send("s-2", Prefer="wait=10"))[0]
        assert 409 == await hook(chain, **landed("s-1"))
        assert {"pending"} == {
            (await chain.view(saga))["steps"][0]["phase"] for saga in ("s-1", "s-2")
        }


async def test_an_exception_that_no_other_word_makes_good_is_answered(
    world: World, tmp_path: Path
) -> None:
    """A saga of the newest version: the API has to say it again."""
    before = release(by_charge, Charged)
    after = release(by_receipt_alone, Paid, version=2, supersedes=before)
    async with world.release(after, **at(world, tmp_path, "psp")) as chain:
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
        assert 500 == await hook(chain, **landed("s-1"))
        assert 200 == await hook(chain, **landed("s-1"), receipt="r-1")
        await chain.until("s-1", lambda view: view["state"] == "completed")


async def test_a_version_without_a_webhook_vouches_for_none(world: World, tmp_path: Path) -> None:
    """It verifies nothing, so a webhook that no function believed is not acknowledged."""
    before: Stage[Order, Any] = Stage("payment", accepts=Order)

    @before.call(to="psp", compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        return "never"

    after = release(by_receipt, Paid, version=2, supersedes=before)
    async with world.release(after, **at(world, tmp_path, "psp")) as chain:
        assert 401 == await hook(chain, secret="guessed", **landed("s-1"))


def raises(said: Said) -> Landed[Any] | None:
    """For a webhook of the other call."""
    raise KeyError("charge")


@pytest.mark.parametrize(
    "first", [{"reads": by_charge}, {"reads": raises}, {"reads": by_charge, "signed": "Another"}]
)
async def test_the_key_says_which_of_two_calls_a_webhook_is_about(
    tmp_path: Path, first: dict[str, Any]
) -> None:
    """The first function's word, exception or disbelief kept the second from being asked."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)
    a_call(stage, "deposit", Charged, **first)
    a_call(stage, "charge", Charged, by_charge)
    async with running_chain(tmp_path, stage=stage, connect=verified(tmp_path)) as chain:
        await begun(chain, "deposit" if first == {"reads": by_charge} else "")
        assert 200 == await hook(chain, **landed("s-1"))
        await chain.until("s-1", lambda view: view["steps"][1]["phase"] == "succeeded")


def by_number(said: Said) -> Landed[Any]:
    """Whichever call it is about: a slip, where two calls are matched so."""
    return Landed(result=Charged(charge_id=said["id"]), number=("order", "o-1"))


async def test_a_repeat_that_is_matched_by_number_ends_no_other_call(tmp_path: Path) -> None:
    """Both functions take it for theirs, and a number does not say which call is meant."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order, indexed={"order": "order_id"})
    a_call(stage, "deposit", Charged, by_number)
    a_call(stage, "charge", Charged, by_number)
    async with running_chain(tmp_path, stage=stage, connect=verified(tmp_path)) as chain:
        await begun(chain, "deposit")
        before = await chain.events("s-1")
        assert 200 == await hook(chain, **landed("s-1"))
        assert before == await chain.events("s-1")


async def begun(chain: Chain, by_webhook: str) -> None:
    """A saga whose first call has ended, and whose second one waits for its webhook."""
    assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
    if by_webhook:
        assert 200 == await hook(chain, **{**landed("s-1"), "key": f"s-1:payment:{by_webhook}:do"})
    else:
        order = {"actor": "kim", "reason": "seen there", "step": "deposit", "landed": True}
        order["result"] = {"charge_id": "ch-0"}
        url = f"{chain.stage}/sagas/s-1/settle"
        status, _, body = await chain.request("POST", url, msgspec.json.encode(order))
        assert 200 == status, body
    await chain.until("s-1", lambda view: view["steps"][1]["phase"] == "pending")


@pytest.mark.parametrize("address", ["psp", "psp2"])
async def test_an_api_that_is_called_otherwise_is_heard_at_both_addresses(
    world: World, tmp_path: Path, address: str
) -> None:
    """It posts to the old address until somebody tells it the new one, with today's secret."""
    before = release(by_charge, Charged)
    async with world.release(before, **at(world, tmp_path, "psp")) as chain:
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
    after = release(by_charge, Charged, to="psp2", peers_renamed={"psp": "psp2"})
    async with world.release(after, **at(world, tmp_path, "psp2")) as chain:
        assert 401 == await hook(chain, to=address, secret="guessed", **landed("s-1"))
        assert 200 == await hook(chain, to=address, **landed("s-1"))
        await chain.until("s-1", lambda view: view["state"] == "completed")
        assert 404 == await hook(chain, to="psp3", **landed("s-1"))
