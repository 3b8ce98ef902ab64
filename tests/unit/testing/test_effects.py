"""`assert_compensates` passes where nothing is left, and names what a stage leaves."""

from __future__ import annotations

import sqlite3
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from stage import Http, Refused, Saga, Stage, Transient, Tx
from stage.core.events import Request
from stage.demo.payment import Charge, Order, payment
from stage.ports.stage import Answer
from stage.testing import FakeApi, assert_compensates, reply
from stage.testing.effects import UNKNOWN
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
        ("wrong_key", r"after reserve, charge ran, .*: API psp has \{.*fx-2.*\}, and had \{\}$"),
        ("returns_on_none", r"the answer of charge was lost: API psp has \{.*fx-2"),
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


# --- an API without keys ------------------------------------------------------------------------


class Unkeyed(FakeApi):
    """A provider that ignores keys: it searches by reference, and refunds when it is asked."""

    def answer(self, request: Request, key: str) -> Answer:
        path, _, query = request.path.partition("?")
        if request.method == "GET":
            asked = unquote(query.partition("=")[2])
            return reply(200, {"payments": [asked] if asked in self.effects else []})
        reference = msgspec.json.decode(request.body)["reference"]
        if path == "/payments":
            self.effects[reference] = "paid"
        elif self.effects.pop(reference, None) is None:
            self.effects[f"refund of {reference}"] = "from our own account"
        return reply(200, {"id": reference, "refunded": True})


def at_an_api_without_keys(*, looks: bool) -> Stage[Order, Any]:
    """A stage whose undo looks first whether the payment stands, or does not."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", idempotent=False)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/payments", json={"reference": saga.key})
        return str(answer.json()["id"])

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> str | None:
        answer = await http.get("/payments", params={"reference": saga.key})
        found = answer.json()["payments"]
        return str(found[0]) if found else None

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        reference = saga.key_of(charge)
        if looks:
            answer = await http.get("/payments", params={"reference": reference})
            if not answer.json()["payments"]:
                return
        answer = await http.post("/refunds", json={"reference": reference})
        if "refunded" not in answer.json():
            raise Transient("not refunded")

    return stage


async def test_an_undo_that_an_api_without_keys_makes_twice_is_named() -> None:
    """Its answer was lost, and it is asked again: it has to look first."""
    await assert_compensates(at_an_api_without_keys(looks=True), ORDER, apis={"psp": Unkeyed})
    with pytest.raises(AssertionError, match=r"answer of charge was lost: API psp has .*refund"):
        await assert_compensates(at_an_api_without_keys(looks=False), ORDER, apis={"psp": Unkeyed})


# --- another order ------------------------------------------------------------------------------


async def test_an_undo_of_the_rows_of_another_order_is_named() -> None:
    """A condition that is too wide takes back what others have paid for."""
    wide = broken_payment.broken(releases="UPDATE payment SET state = 'released' WHERE ? <> ''")
    left = r"the database has \[\], and had \[\('s-2',\)\]\. Saga s-2 is that of another order"
    with pytest.raises(AssertionError, match=left):
        await assert_compensates(wide, ORDER, apis={"psp": Psp}, stands=STANDS)


class RefundsTheLast(Psp):
    """It is asked for a refund by the amount, as its author believes."""

    def undo(self, request: Request, key: str) -> Answer:
        self.effects.pop(max(self.effects))
        return reply(200, {"refunded": 1})


async def test_a_refund_of_another_order_is_named() -> None:
    with pytest.raises(AssertionError, match=r"API psp has \{'s-2.*Saga s-2 is|and had \{'s-2"):
        await assert_compensates(payment, ORDER, apis={"psp": RefundsTheLast}, stands=STANDS)


async def test_an_order_that_cannot_stand_beside_itself_needs_another() -> None:
    """The error of the second one names the argument that gives its data."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)
    taken: set[str] = set()

    @stage.effect(to="hall")
    async def take(saga: Saga[Order]) -> str:
        if saga.input.currency in taken:
            raise Refused("the seat is taken")
        taken.add(saga.input.currency)
        return saga.input.currency

    @take.compensation
    async def leave(saga: Saga[Order], made: str | None) -> None:
        taken.discard(saga.input.currency)

    with pytest.raises(AssertionError, match="step take is refused: the seat is taken") as raised:
        await assert_compensates(stage, ORDER, elsewhere=lambda: taken)
    assert any("give other=, the data of another order" in each for each in raised.value.__notes__)


# --- doubts -------------------------------------------------------------------------------------


class FindsAny(Psp):
    """It is asked for the charge of a card, as its author believes, and not by the key."""

    def look_up(self, request: Request, key: str) -> Answer:
        return self.made(min(self.effects.values())) if self.effects else reply(404, UNKNOWN)


class FindsNone(Psp):
    def look_up(self, request: Request, key: str) -> Answer:
        return reply(404, UNKNOWN)


@pytest.mark.parametrize(
    "fake, message",
    [
        (FindsAny, "the probe of charge finds .*fx-1.* before charge has run for this saga"),
        (FindsNone, "the probe of charge does not find what charge has made"),
    ],
)
async def test_a_probe_that_looks_for_another_thing_is_named(
    fake: type[FakeApi], message: str
) -> None:
    """It would take a request that never arrived for done, or make an effect twice."""
    with pytest.raises(AssertionError, match=message):
        await assert_compensates(payment, ORDER, apis={"psp": fake}, stands=STANDS)


def looking(path: str) -> Stage[Order, str]:
    """A stage of one call, whose probe asks at this path."""
    stage: Stage[Order, str] = Stage("payment", accepts=Order)

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        return str((await http.post("/charges")).json()["id"])

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> str | None:
        answer = await http.get(path, params={"key": saga.key})
        return None if answer.status == 404 else str(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds")

    return stage


class LooksUpElsewhere(FakeApi):
    look_up_path = "/look-ups"


async def test_a_probe_at_a_path_of_its_own_is_named_with_the_fix() -> None:
    """The engine's key is in each request, and no real API looks at it whatever the path is."""
    await assert_compensates(looking("/charges"), ORDER)
    await assert_compensates(looking("/charges/by-key"), ORDER)
    slip = (
        r"the probe of charge: GET /charge finds nothing: the effect was made at /charges\."
        r" Mend the path, or say look_up_path = '/charge' in the class of the fake"
    )
    with pytest.raises(AssertionError, match=slip):
        await assert_compensates(looking("/charge"), ORDER)
    apis: dict[str, type[FakeApi]] = {"psp": LooksUpElsewhere}
    await assert_compensates(looking("/look-ups/charges"), ORDER, apis=apis)
    with pytest.raises(AssertionError, match="made at /look-ups"):
        await assert_compensates(looking("/charges"), ORDER, apis=apis)


async def test_an_effect_that_is_another_at_each_attempt_is_named() -> None:
    """Its doubt is settled by a repeat, which makes a second one that no undo knows."""
    objects: dict[str, str] = {}
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.effect(to="s3")
    async def upload(saga: Saga[Order]) -> str:
        name = f"{saga.key}/{len(objects)}"
        objects[name] = saga.id
        return name

    @upload.compensation
    async def remove(saga: Saga[Order], made: str | None) -> None:
        objects.pop(made or f"{saga.key_of(upload)}/1", None)

    with pytest.raises(
        AssertionError, match=r"the answer of upload was lost: elsewhere has \{'s-1"
    ):
        await assert_compensates(stage, ORDER, elsewhere=lambda: objects)


async def test_an_output_that_is_another_each_time_is_named() -> None:
    """It is asked for at each answer."""
    stage = Stage("payment", accepts=Order, adds=Charge)
    numbers = iter(range(9))

    @stage.transaction(compensation=None, reason="of a test")
    async def nothing(tx: Tx, saga: Saga[Order]) -> None: ...

    @stage.output
    def out(saga: Saga[Order]) -> Charge:
        return Charge(f"c-{next(numbers)}")

    with pytest.raises(
        AssertionError, match=r'the output is \{"charge_id":"c-0"\}, and when it is'
    ):
        await assert_compensates(stage, ORDER)


async def test_a_step_behind_the_pivot_is_run() -> None:
    """It goes forward alone, and nobody else would run it before the first saga does."""
    stage = Stage("payment", accepts=Order)

    @stage.call(to="psp", pivot=True)
    async def pay(http: Http, saga: Saga[Order]) -> str:
        return str((await http.post("/charges")).json()["id"])

    @stage.transaction
    async def record(tx: Tx, saga: Saga[Order]) -> None:
        await tx.execute("UPDATE nowhere SET id = $1", saga.result(pay))

    with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
        await assert_compensates(stage, ORDER)


async def test_a_request_that_goes_elsewhere_at_a_second_run_is_named() -> None:
    """State of the process in a path: a saga in doubt would be parked."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)
    numbers = iter(range(9))

    @stage.call(to="psp", reason="it is a trial")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post(f"/charges/{next(numbers)}")

    with pytest.raises(
        AssertionError, match=r"step charge asks for POST /charges/0, and for POST /"
    ):
        await assert_compensates(stage, ORDER)


# --- answers that come later --------------------------------------------------------------------


class Pends(Psp):
    """It takes each charge on, and ends it later."""

    pends = True

    def look_up(self, request: Request, key: str) -> Answer:
        found = request.path.rpartition("/")[2].replace("%3A", ":")
        return reply(202) if found in self.pending else super().look_up(request, key)

    def undo(self, request: Request, key: str) -> Answer:
        of = msgspec.json.decode(request.body)["key"]
        self.pending.discard(of)
        self.effects.pop(of, None)
        return reply(200, {"refunded": 1})


class GoesOn(Pends):
    """Its undo leaves what is under way."""

    def undo(self, request: Request, key: str) -> Answer:
        self.effects.pop(msgspec.json.decode(request.body)["key"], None)
        return reply(200, {"refunded": 1})


async def test_a_call_that_is_taken_on_is_ended_or_undone_before_it_ends() -> None:
    """With the end that its probe finds; and while nobody knows the end."""
    await assert_compensates(payment, ORDER, apis={"psp": Pends}, stands=STANDS)
    left = r"the answer of charge was lost: API psp has \{'s-1:payment:charge:do': 'pending'\}"
    with pytest.raises(AssertionError, match=left):
        await assert_compensates(payment, ORDER, apis={"psp": GoesOn}, stands=STANDS)
