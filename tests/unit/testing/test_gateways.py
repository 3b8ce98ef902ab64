"""`assert_doubts_gateways` passes where no page is believed, and names the function that does."""

from __future__ import annotations

from typing import Any

import pytest

from stage import Http, Saga, Stage, Transient
from stage.demo.payment import Order, payment
from stage.testing import assert_doubts_gateways
from tests.simulation import broken_payment
from tests.unit.testing.test_effects import ORDER, Psp


async def test_the_stage_of_the_demo_believes_none() -> None:
    await assert_doubts_gateways(payment, ORDER, apis={"psp": Psp})


async def test_a_no_by_the_code_alone_is_named() -> None:
    """The charge behind that gateway would stand."""
    believed = "step charge takes 410 with a page of a gateway for the no of the API: look for"
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
