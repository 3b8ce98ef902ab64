"""How effects and approvals are declared, and what an effect's end means (decision 0076)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from stage import InDoubt, Pending, Refused, Saga, Stage, Transient
from stage.core.commands import AttemptKind
from stage.core.errors import DeclarationError
from stage.core.failure import FailureKind
from stage.core.steps import StepKind
from stage.ports.stage import Failed, Finished, Foreign, RunView
from stage.ports.time_limit import TimeLimit
from tests.unit.authoring.views import view


class Order(msgspec.Struct):
    """The payload."""

    amount: int


def stage_of(work: Callable[[Saga[Order]], Coroutine[Any, Any, Any]]) -> Stage[Order, Any]:
    stage: Stage[Order, Any] = Stage("store", accepts=Order)
    stage.effect(to="s3", compensation=None, reason="kept", never_retry={KeyError})(work)
    return stage


RAN: list[str] = []


async def upload(saga: Saga[Order]) -> str:
    RAN.append(saga.key)
    raise_next()
    return "object-1"


def raise_next() -> None:
    """Replaced by the tests."""


async def test_no_line_of_an_effect_runs_before_its_intent_is_durable() -> None:
    """`begin` is called within the unit that writes the intent."""
    RAN.clear()
    participant = stage_of(upload).bind()
    begun = participant.converse(AttemptKind.EXECUTE, "upload", view(key="k-1"))

    assert isinstance(begun.begin(), Foreign)
    assert [] == RAN
    turn = await participant.converse(AttemptKind.EXECUTE, "upload", view(key="k-1")).proceed()
    assert (["k-1"], Finished(result=msgspec.Raw(b'"object-1"'))) == (RAN, turn)


class Panic(BaseException):
    """No Exception: as the binding of a library in Rust declares its panics."""


@pytest.mark.parametrize(
    "error, kind",
    [
        (Refused("no"), FailureKind.REFUSED),
        (Transient("not now"), FailureKind.TRANSIENT),
        (Pending("soon"), FailureKind.PENDING),
        (InDoubt("?"), FailureKind.IN_DOUBT),
        (TypeError("a bug on the first line"), FailureKind.IN_DOUBT),
        (ConnectionRefusedError(), FailureKind.IN_DOUBT),
        (asyncio.CancelledError(), FailureKind.IN_DOUBT),
        (SystemExit(1), FailureKind.IN_DOUBT),
        (GeneratorExit(), FailureKind.IN_DOUBT),
        (Panic("as an extension in Rust raises it"), FailureKind.IN_DOUBT),
        (BaseExceptionGroup("of tasks", [Panic()]), FailureKind.IN_DOUBT),
    ],
)
async def test_the_end_of_an_effect_follows_from_what_it_raises(
    error: BaseException, kind: FailureKind
) -> None:
    """Only a word of the author is certain: nobody sees what had left."""

    async def work(saga: Saga[Order]) -> str:
        raise error

    participant = stage_of(work).bind()
    turn = await participant.converse(AttemptKind.EXECUTE, "work", view()).proceed()

    assert isinstance(turn, Failed)
    assert kind is turn.kind


async def test_a_time_out_that_the_function_catches_is_a_doubt() -> None:
    """Its result proves nothing: it was told to end, and nobody knows what had landed."""

    async def work(saga: Saga[Order]) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done"
        return "never"

    proceed = stage_of(work).bind().converse(AttemptKind.EXECUTE, "work", view()).proceed()
    with TimeLimit(0.001):
        turn = await proceed

    assert isinstance(turn, Failed) and FailureKind.IN_DOUBT is turn.kind
    assert "let CancelledError out" in turn.reason


async def test_a_time_out_of_the_author_s_own_is_theirs() -> None:
    """It has ended before the function returns, and its result counts."""

    async def work(saga: Saga[Order]) -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            return "not there"
        return "never"

    turn = await stage_of(work).bind().converse(AttemptKind.EXECUTE, "work", view()).proceed()
    assert isinstance(turn, Finished)


async def test_an_exception_of_never_retry_ends_the_attempts() -> None:
    """As in a call."""

    async def work(saga: Saga[Order]) -> str:
        raise KeyError("gone")

    turn = await stage_of(work).bind().converse(AttemptKind.EXECUTE, "work", view()).proceed()
    assert isinstance(turn, Failed) and turn.final


def test_an_effect_has_a_kind_a_peer_a_probe_and_an_undo() -> None:
    """The machine sees a step like a call."""
    stage: Stage[Order, Any] = Stage("store", accepts=Order)

    @stage.effect(to="s3", timeout=3.0)
    async def put(saga: Saga[Order]) -> str:
        return "object-1"

    @put.probe
    async def find(saga: Saga[Order]) -> str | None:
        return None

    @put.compensation
    async def remove(saga: Saga[Order], made: str | None) -> None: ...

    step = stage.bind().plan.step("put")
    assert (StepKind.EFFECT, "s3", True, True) == (
        step.kind,
        step.peer,
        step.probed,
        step.compensatable,
    )


def test_an_effect_without_a_system_or_without_parentheses_is_refused() -> None:
    """With the line to write."""
    stage: Stage[Order, Any] = Stage("store", accepts=Order)
    wanted = r"test_effect\.py:\d+: an effect of stage 'store'.*@store\.effect\(to="
    with pytest.raises(DeclarationError, match=wanted):
        stage.effect(upload)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match=wanted):
        stage.effect()(upload)


def test_an_effect_without_a_word_about_its_compensation_is_refused() -> None:
    """As any step before the pivot."""
    stage: Stage[Order, Any] = Stage("store", accepts=Order)
    stage.effect(to="s3")(upload)
    with pytest.raises(DeclarationError, match=r"test_effect\.py:\d+: step 'upload'.*compensation"):
        stage.bind()


def test_an_undo_of_an_effect_takes_the_result_or_none() -> None:
    """Its parameter is checked where it is declared."""
    stage: Stage[Order, Any] = Stage("store", accepts=Order)
    put = stage.effect(to="s3")(upload)

    async def remove(saga: Saga[Order], made: str) -> None: ...

    with pytest.raises(DeclarationError, match=r"made: str.*made: str \| None"):
        put.compensation(remove)  # type: ignore[arg-type]


def test_an_approval_is_a_plain_function_with_a_name() -> None:
    """An async one, one without a name, and a time-out of nothing are refused with their line."""
    stage: Stage[Order, Any] = Stage("store", accepts=Order)

    async def late(saga: Saga[Order]) -> int:
        return 1

    with pytest.raises(DeclarationError, match=r"test_effect\.py:\d+: approval 'risk'.*def, not"):
        stage.approval("risk")(late)
    with pytest.raises(DeclarationError, match=r"test_effect\.py:\d+: .*has to have a name"):
        stage.approval(lambda saga: 1)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="timeout > 0"):
        stage.approval("risk", timeout=0.0)


def test_the_words_shown_have_a_limit_and_none_asks_nobody() -> None:
    """It lies in the journal, and a page shows it."""
    stage: Stage[Order, Any] = Stage("store", accepts=Order)

    @stage.approval("risk")
    def risk(saga: Saga[Order]) -> dict[str, Any] | None:
        amount = saga.input.amount
        return None if amount < 10 else {"amount": amount, "text": "x" * amount}

    participant = stage.bind()

    def shown(amount: int) -> bytes | None:
        given: RunView = msgspec.structs.replace(view(), data={"amount": amount})
        return participant.shown("risk", given)

    assert shown(5) is None
    assert b'"amount":10' in bytes(shown(10) or b"")
    with pytest.raises(Exception, match=r"test_effect\.py:\d+: risk shows \d+ bytes, and at most"):
        shown(20_000)
