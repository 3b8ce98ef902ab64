"""The slips of an author that are seen before anything runs: the line, the thing, the fix."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from stage import Http, Saga, Stage, Tx
from stage.core.errors import DeclarationError

if TYPE_CHECKING:
    from stage.core.steps import Plan as Lost

HERE = r"^test_slips_at_start\.py:\d+: "


class Order(msgspec.Struct):
    amount: int


class Charge(msgspec.Struct):
    id: str


class Other(msgspec.Struct):
    id: str


class Ledger:
    """A class that JSON knows nothing of."""


def new_stage() -> Stage[Order, Any]:
    return Stage("payment", accepts=Order)


async def undo(http: Http, saga: Saga[Order], made: Charge | None) -> None: ...


def no_compensation_of_a_call(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")

    stage.bind()


def no_compensation_of_a_transaction(stage: Stage[Order, Any]) -> None:
    @stage.transaction
    async def reserve(tx: Tx, saga: Saga[Order]) -> None: ...

    stage.bind()


def compensation_and_none(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp", compensation=None, reason="it reads")
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")

    charge.compensation(undo)


def a_compensation_as_an_argument(stage: Stage[Order, Any]) -> None:
    stage.call(to="psp", compensation=undo)  # type: ignore[arg-type]  # the slip


def a_lost_type(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Lost: ...  # type: ignore[empty-body]


def a_type_that_is_not_json(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Ledger:
        return Ledger()


def a_type_within_that_is_not_json(stage: Stage[Order, Any]) -> None:
    @stage.transaction
    async def reserve(tx: Tx, saga: Saga[Order]) -> list[Ledger]:
        return [Ledger()]


def a_compensation_of_another_type(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Other:
        return Other("o")

    charge.compensation(undo)  # type: ignore[arg-type]  # the slip


def a_compensation_that_takes_no_none(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")

    @charge.compensation  # type: ignore[arg-type]  # the slip
    async def refund(http: Http, saga: Saga[Order], made: Charge) -> None: ...


def a_probe_of_nothing(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> None: ...

    @charge.probe  # type: ignore[attr-defined, untyped-decorator]  # the slip
    async def find(http: Http, saga: Saga[Order]) -> None: ...


def a_probe_that_cannot_tell(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Charge | None:
        return None

    @charge.probe
    async def find(http: Http, saga: Saga[Order]) -> Charge | None:
        return None


def a_probe_of_another_type(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")

    @charge.probe  # type: ignore[arg-type]  # the slip
    async def find(http: Http, saga: Saga[Order]) -> Other | None:
        return None


def a_call_without_an_api(stage: Stage[Order, Any]) -> None:
    @stage.call()
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")


def a_call_without_parentheses(stage: Stage[Order, Any]) -> None:
    @stage.call  # type: ignore[arg-type]  # the slip
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")


def a_function_that_is_not_async(stage: Stage[Order, Any]) -> None:
    @stage.transaction  # type: ignore[arg-type]  # the slip
    def reserve(tx: Tx, saga: Saga[Order]) -> None: ...


def a_function_that_yields(stage: Stage[Order, Any]) -> None:
    @stage.transaction  # type: ignore[arg-type]  # the slip
    async def reserve(tx: Tx, saga: Saga[Order]) -> AsyncIterator[int]:
        yield 1


def a_transaction_in_a_call(stage: Stage[Order, Any]) -> None:
    @stage.call(to="psp")  # type: ignore[arg-type]  # the slip
    async def charge(tx: Tx, saga: Saga[Order]) -> Charge:
        return Charge("c")


def parameters_in_another_order(stage: Stage[Order, Any]) -> None:
    @stage.transaction  # type: ignore[arg-type]  # the slip
    async def reserve(saga: Saga[Order], tx: Tx) -> None: ...


def a_code_of_two_meanings(stage: Stage[Order, Any]) -> None:
    stage.call(to="psp", refused_on={402, 404}, transient_on={404})


def a_code_that_is_no_set(stage: Stage[Order, Any]) -> None:
    stage.call(to="psp", refused_on=402)  # type: ignore[arg-type]  # the slip


def a_code_that_is_a_text(stage: Stage[Order, Any]) -> None:
    stage.call(to="psp", pending_on={"202"})  # type: ignore[arg-type]  # the slip


def a_time_that_is_a_text(stage: Stage[Order, Any]) -> None:
    stage.effect(to="s3", timeout="2")  # type: ignore[arg-type]  # the slip


@pytest.mark.parametrize(
    "slip, fix",
    [
        (no_compensation_of_a_call, "under @charge.compensation, or say why .* compensation=None"),
        (no_compensation_of_a_transaction, "'reserve' .* has no compensation"),
        (compensation_and_none, "says compensation=None and has a compensation"),
        (a_compensation_as_an_argument, "takes None alone: .* with @step.compensation"),
        (a_lost_type, "returns 'Lost', which is not there when it runs .* TYPE_CHECKING"),
        (
            a_type_that_is_not_json,
            "returns Ledger, which is stored as JSON and cannot be: .*Struct",
        ),
        (a_type_within_that_is_not_json, "returns list.*Ledger.*, which is stored as JSON"),
        (a_compensation_of_another_type, r"takes made: .*, and charge may leave it Other: .*"),
        (a_compensation_that_takes_no_none, r"may leave it None: annotate it made: Charge \| None"),
        (a_probe_of_nothing, "returns None and has a probe, .* let the call return what was made"),
        (a_probe_that_cannot_tell, r"has a probe, whose None says that the API does not know"),
        (a_probe_of_another_type, r"finds Other, and charge returns Charge: .* Charge \| None"),
        (a_call_without_an_api, r"write @payment\.call\(to='name of the API'\)"),
        (a_call_without_parentheses, r"write @payment\.call\(to='name of the API'\)"),
        (a_function_that_yields, "has a yield, so that calling it runs nothing: let it return"),
        (a_transaction_in_a_call, r"is given \(http, saga\), .* takes tx where it gets http"),
        (parameters_in_another_order, r"takes saga where it gets tx: name them in this order"),
        (a_code_of_two_meanings, "has 404 in transient_on and in refused_on: .* keep one"),
        (a_code_that_is_no_set, "is no set of HTTP codes: write them as numbers"),
        (a_code_that_is_a_text, r"pending_on=\{402\}"),
        (a_time_that_is_a_text, "has '2' where a time stands: give seconds as a number"),
        (a_function_that_is_not_async, "reserve of stage 'payment' must be declared with async"),
    ],
)
def test_a_slip_is_refused_with_its_line_and_the_fix(
    slip: Callable[[Stage[Order, Any]], None], fix: str
) -> None:
    """At import or at start: nothing has run by then."""
    with pytest.raises(DeclarationError) as refused:
        slip(new_stage())
    assert re.search(HERE + ".*" + fix, str(refused.value)), refused.value


def test_behind_the_pivot_no_compensation_is_asked_for() -> None:
    """There the stage only goes forward: a compensation would be refused."""
    stage = new_stage()

    @stage.call(to="psp", pivot=True)
    async def pay(http: Http, saga: Saga[Order]) -> Charge:
        return Charge("c")

    @stage.transaction
    async def record(tx: Tx, saga: Saga[Order]) -> None: ...

    assert ["pay", "record"] == [step.name for step in stage.bind().plan.steps]


def test_a_type_of_the_function_around_is_found() -> None:
    """A stage that is made in a function may return what is declared there."""

    class Local(msgspec.Struct):
        id: str

    stage = new_stage()

    @stage.call(to="psp", compensation=None, reason="it reads")
    async def charge(http: Http, saga: Saga[Order]) -> Local:
        return Local("l")

    assert Local("l") == charge.decode_result(charge.encode_result(Local("l")))


def test_calls_together_stand_side_by_side() -> None:
    """They would have run one after the other."""
    stage = new_stage()

    def ask(name: str, together: str) -> None:
        async def work(http: Http, saga: Saga[Order]) -> str:
            return name

        work.__name__ = name
        stage.call(to="psp", together=together, compensation=None, reason="it reads")(work)

    ask("north", "quotes")
    ask("south", "quotes")
    stage.bind()
    ask("rain", "")
    ask("west", "quotes")
    with pytest.raises(DeclarationError, match=r"'south' and 'west' .* 'rain' stands between them"):
        stage.bind()


@pytest.mark.parametrize("accepts", [Ledger, list[Ledger], Callable[[], int], complex])
def test_accepts_of_a_class_that_is_no_payload_is_refused_in_words(accepts: Any) -> None:
    """The decoder of JSON would have taken it, and no saga."""
    with pytest.raises(DeclarationError, match=r"cannot be read from JSON: .*use a msgspec Struct"):
        Stage("payment", accepts=accepts)


def test_a_result_without_a_type_has_to_come_back_as_it_was() -> None:
    """Plain JSON does; an object of a class would reach its compensation as a dict."""
    stage = new_stage()

    @stage.call(to="psp", compensation=None, reason="it reads")
    async def charge(http, saga):  # type: ignore[no-untyped-def]  # the slip
        return {}

    assert b'{"id":"c"}' == charge.encode_result({"id": "c"})
    with pytest.raises(TypeError, match="returned dict: JSON has no nan"):
        charge.encode_result({"amount": float("nan")})
    with pytest.raises(TypeError, match=r"declares no type, .* annotate what it returns"):
        charge.encode_result(Charge("c"))


def test_migrations_that_lie_beside_the_stage_are_not_forgotten(tmp_path: Path) -> None:
    """The first transaction would have found no table, at every saga."""
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT);")
    stage = new_stage()
    stage.folder = tmp_path
    with pytest.raises(DeclarationError, match=r'write Stage\(.*migrations="migrations"'):
        stage.check_migrations()
    stage.migrations = tmp_path / "migrations"
    stage.check_migrations()
