"""`assert_compensates` passes where nothing is left, and names what a stage leaves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stage import Saga, Stage
from stage.core.events import Request
from stage.demo.payment import Order, payment
from stage.ports.stage import Answer
from stage.testing import FakeApi, assert_compensates, reply
from tests.simulation import broken_payment

ORDER = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
STANDS = "SELECT saga_id FROM payment WHERE state <> 'released'"


class Psp(FakeApi):
    """The provider of the demo: it refunds by the key in the body."""

    def is_undo(self, request: Request, key: str) -> bool:
        return request.path == "/refunds"

    def look_up(self, request: Request, key: str) -> Answer:
        return super().look_up(request, request.path.rpartition("/")[2].replace("%3A", ":"))

    def undo(self, request: Request, key: str) -> Answer:
        made = self.effects.pop(msgspec.json.decode(request.body)["key"], None)
        return (
            reply(404, {"code": "unknown_charge"}) if made is None else reply(200, {"refunded": 1})
        )


async def test_the_stage_of_the_demo_leaves_nothing() -> None:
    """Wherever it fails, and when the answer of its charge is lost."""
    await assert_compensates(payment, ORDER, apis={"psp": Psp}, stands=STANDS)


@pytest.mark.parametrize(
    "name, left",
    [
        ("wrong_key", r"after reserve, charge ran, .*: API psp has \{.*fx-1.*\}, and had \{\}"),
        ("returns_on_none", r"the answer of charge was lost: API psp has \{.*fx-1"),
        ("not_released", r"after reserve ran, .*: the database has \[\('s-1',\)\], and had \[\]"),
        ("forgotten", r"after reserve, charge ran, .*: API psp has"),
    ],
)
async def test_a_trace_that_is_left_is_named_with_the_steps_that_ran(name: str, left: str) -> None:
    """The four mistakes that `stage simulate` finds too."""
    stage = getattr(broken_payment, name)
    with pytest.raises(AssertionError, match=left):
        await assert_compensates(stage, ORDER, apis={"psp": Psp}, stands=STANDS)


async def test_without_a_query_every_table_has_to_be_as_it_was() -> None:
    """A row that stays as released is a difference: say what stands."""
    with pytest.raises(AssertionError, match="table payment has"):
        await assert_compensates(payment, ORDER, apis={"psp": Psp})


async def test_data_that_a_step_refuses_tries_nothing() -> None:
    """The trial says that the step did not run."""
    with pytest.raises(Exception, match="the amount must be positive"):
        await assert_compensates(payment, {**ORDER, "amount": 0}, stands=STANDS)


def with_an_effect(objects: dict[str, str], *, removes: bool) -> Stage[Order, Any]:
    """A stage whose payment a person approves, and whose receipt a vendor keeps."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.approval("risk")
    def risk(saga: Saga[Order]) -> dict[str, int]:
        return {"amount": saga.input.amount}

    @stage.effect(to="s3")
    async def upload(saga: Saga[Order]) -> str:
        approval = saga.result(risk)
        objects[saga.key] = "nobody" if approval is None else approval.by
        return "receipt"

    @upload.compensation
    async def remove(saga: Saga[Order], made: str | None) -> None:
        if removes or made is not None:
            objects.pop(saga.key_of(upload), None)

    return stage


async def test_an_undo_of_an_effect_that_works_once_alone_is_named() -> None:
    """Its own answer may be lost too: made again it raises, and would be for days."""
    objects: dict[str, str] = {}
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.effect(to="s3")
    async def upload(saga: Saga[Order]) -> str:
        objects[saga.key] = "kim"
        return "receipt"

    @upload.compensation
    async def remove(saga: Saga[Order], made: str | None) -> None:
        del objects[saga.key_of(upload)]

    with pytest.raises(AssertionError, match="of upload, made again because its own answer was"):
        await assert_compensates(stage, ORDER, elsewhere=lambda: objects)


async def test_an_effect_that_is_left_elsewhere_is_named() -> None:
    """Its undo does nothing without a result: found where the answer is lost."""
    objects: dict[str, str] = {}
    right = with_an_effect(objects, removes=True)
    await assert_compensates(right, ORDER, elsewhere=lambda: objects)
    assert {} == objects

    wrong = with_an_effect(objects, removes=False)
    with pytest.raises(AssertionError, match="the answer of upload was lost: elsewhere has"):
        await assert_compensates(wrong, ORDER, elsewhere=lambda: objects)
