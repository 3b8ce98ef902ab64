"""`assert_doubts_gateways` passes where no page is believed, and names the function that does."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest

from stage import Http, Refused, Saga, Stage, Transient
from stage.authoring.steps import CallStep
from stage.core.events import Request
from stage.demo.payment import Charge, Order, payment
from stage.ports.stage import Answer
from stage.testing import FakeApi, assert_compensates, assert_doubts_gateways, reply
from tests.simulation import broken_payment
from tests.unit.testing.test_effects import ORDER, Psp


async def test_the_stage_of_the_demo_believes_none() -> None:
    await assert_doubts_gateways(payment, ORDER, apis={"psp": Psp})


async def test_a_no_by_the_code_alone_is_named() -> None:
    """The charge behind that gateway would stand."""
    believed = "step charge takes 410 with a page of a gateway for the no of the API, in answer to"
    with pytest.raises(AssertionError, match=believed):
        await assert_doubts_gateways(broken_payment.believes_a_410, ORDER, apis={"psp": Psp})


def believing(what: str) -> Stage[Order, Any]:
    """A stage of one call, of which one function looks at the code alone."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        return "" if what == "yes" else str(answer.json()["id"])

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> str | None:
        answer = await http.get(f"/charges/{saga.key}")
        if answer.status == 404 and (what == "probe" or answer.json()["code"] == "unknown_key"):
            return None
        return str(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        answer = await http.post("/refunds", json={"key": saga.key_of(charge)})
        if answer.status != 200 or (what != "undo" and "refunded" not in answer.json()):
            raise Transient("not refunded")

    return stage


@pytest.mark.parametrize(
    "what, believed",
    [
        ("yes", "step charge takes 200 with a page of a gateway for a success"),
        ("probe", "the probe of charge takes 404 with a page of .* for the word that nothing is"),
        ("undo", "the compensation of charge takes 200 with a page of a gateway for a success"),
    ],
)
async def test_a_code_that_is_believed_alone_is_named(what: str, believed: str) -> None:
    """Of each function; the same stage passes once all of them look at the body."""
    with pytest.raises(AssertionError, match=believed):
        await assert_doubts_gateways(believing(what), ORDER, apis={"psp": Psp})
    await assert_doubts_gateways(believing(""), ORDER, apis={"psp": Psp})


async def test_words_that_are_not_the_api_s_are_no_word_of_it() -> None:
    """JSON of a gateway, which a function takes that looks for any JSON."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", reason="of a test")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        answer.json()

    with pytest.raises(AssertionError, match=r'takes 200 with \{"message":"no Route matched"\}'):
        await assert_doubts_gateways(stage, ORDER)


class Unkeyed(FakeApi):
    """An API that ignores keys: payments are found by a reference, and refunded by their id."""

    def answer(self, request: Request, key: str) -> Answer:
        """See FakeApi."""
        path, _, query = request.path.partition("?")
        if request.method == "GET":
            reference = parse_qs(query)["reference"][0]
            found = [self.effects[reference]] if reference in self.effects else []
            return reply(200, {"payments": [{"id": each, "state": "paid"} for each in found]})
        body = msgspec.json.decode(request.body)
        if path == "/payments":
            return self.made(self._make(body["reference"]))
        self.effects = {of: each for of, each in self.effects.items() if each != body["payment"]}
        return reply(200, {"refunded": body["payment"]})


def unkeyed() -> tuple[Stage[Order, Any], CallStep[Order, Charge]]:
    """The stage that docs/author.md has for such an API, and its call, to be given an undo."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", idempotent=False)
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        body = {"amount": saga.input.amount, "reference": saga.key}
        answer = await http.post("/payments", json=body)
        if answer.status == 402:
            raise Refused("card declined")
        return Charge(answer.json()["id"])

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
        answer = await http.get("/payments", params={"reference": saga.key})
        found = answer.json()["payments"]
        return Charge(found[0]["id"]) if found else None

    return stage, charge


@pytest.mark.parametrize("checks", [True, False])
async def test_each_request_of_a_function_meets_the_gateway(checks: bool) -> None:
    """An undo that looks first, by the API itself, and asks for the refund behind that."""
    stage, charge = unkeyed()

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        answer = await http.get("/payments", params={"reference": saga.key_of(charge)})
        found = answer.json()["payments"]
        if not found:
            return
        answer = await http.post("/refunds", json={"payment": found[0]["id"]})
        if answer.status == 402:
            raise Refused("the refund was declined")
        if answer.status != 200 or (checks and "refunded" not in answer.json()):
            raise Transient(f"the refund was answered {answer.status}")

    await assert_compensates(stage, ORDER, apis={"psp": Unkeyed})
    if checks:
        await assert_doubts_gateways(stage, ORDER, apis={"psp": Unkeyed})
        return
    believed = "compensation of charge takes 200 with a page .* a success, in answer to its POST"
    with pytest.raises(AssertionError, match=rf"{believed} /refunds: look for"):
        await assert_doubts_gateways(stage, ORDER, apis={"psp": Unkeyed})


async def test_the_requests_before_the_gateway_may_act() -> None:
    """Each page meets a world of its own: the refund before it would end all that come later."""
    stage, charge = unkeyed()

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        answer = await http.get("/payments", params={"reference": saga.key_of(charge)})
        found = answer.json()["payments"]
        if not found:
            return
        answer = await http.post("/refunds", json={"payment": found[0]["id"]})
        answer.json()["refunded"]
        answer = await http.post("/points", json={"payment": found[0]["id"]})
        if answer.status != 422:  # the last of the pages
            answer.json()["refunded"]

    with pytest.raises(AssertionError, match=r"takes 422 with a page .* its POST /points: look"):
        await assert_doubts_gateways(stage, ORDER, apis={"psp": Unkeyed})


async def test_a_look_that_fails_may_be_passed_over() -> None:
    """The gateway answers all that comes behind it too: the API's own word is still asked for."""
    stage, charge = unkeyed()

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        answer = await http.get("/payments", params={"reference": saga.key_of(charge)})
        found = answer.json()["payments"] if answer.status == 200 else [msgspec.to_builtins(made)]
        answer = await http.post("/refunds", json={"payment": found[0]["id"]})
        answer.json()["refunded"]

    await assert_doubts_gateways(stage, ORDER, apis={"psp": Unkeyed})
