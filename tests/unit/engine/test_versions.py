"""The version under which a saga runs, and the plan that its journal binds (rule 32)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from stage import Http, Saga, Stage
from stage.core import events as e
from stage.core.bindings import MEND, binding_of, hash_of
from stage.core.commands import AttemptKind, Do
from stage.core.ids import Direction, idempotency_key
from stage.core.saga import Saga as State
from stage.engine.clock import SystemClock
from stage.engine.saga.context import Context
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.versions import Versions
from stage.ports.observer import TraceContext
from stage.ports.stage import Participant
from stage.ports.store import Entry
from stage.telemetry.null import NullObserver

AT = 1_795_401_000.0


def declared(step: str = "charge", to: str = "psp", **lineage: Any) -> Stage[dict[str, Any], None]:
    """A release with one call."""
    stage: Stage[dict[str, Any], None] = Stage("payment", accepts=dict[str, Any], **lineage)

    async def function(http: Http, saga: Saga[dict[str, Any]]) -> None:
        await http.post("/charges", json={})

    function.__name__ = step
    stage.call(to=to, timeout=1.0, compensation=None, reason="no test undoes it")(function)
    return stage


def family() -> tuple[Participant, Participant]:
    """The version of today, and the one before, which names its step otherwise."""
    first = declared("bill")
    newest = declared("charge", version=2, supersedes=first).bind()
    assert newest.supersedes is not None
    return newest, newest.supersedes


def journal(*events: e.Event) -> list[Entry]:
    return [Entry(number=n, epoch=1, event=event) for n, event in enumerate(events, 1)]


def started(
    participant: Participant, step: str, version: int = 1, plan_hash: str = ""
) -> list[Entry]:
    """The journal of a saga that was accepted and has begun its call, in that version."""
    bound = binding_of(participant.plan.step(step))
    key = idempotency_key("s-1", "payment", step, Direction.EXECUTE)
    return journal(
        e.Accepted(at=AT, version=version, plan_hash=plan_hash),
        e.StepStarted(at=AT, step=step, attempt=1, key=key, bound=bound),
    )


def begun(versions: Versions, entries: Sequence[Entry]) -> State:
    return versions.begin("s-1", entries)


def test_a_saga_runs_under_the_version_that_accepted_it() -> None:
    """Under the newest without a plan of its own, because most do."""
    newest, before = family()
    versions = Versions(newest)
    assert State(id="s-1") == begun(versions, started(newest, "charge", 2))
    assert before.plan == begun(versions, started(before, "bill", 1)).plan
    assert hash_of(newest.plan) == versions.plan_hash != hash_of(before.plan)


def test_its_functions_are_those_of_its_version() -> None:
    """A version that is not declared calls none: any participant does for its name."""
    newest, before = family()
    versions = Versions(newest)
    assert newest is versions.of(State(id="s-1", version=2))
    assert before is versions.of(State(id="s-1", version=1))
    assert newest is versions.of(State(id="s-1", version=9))


@pytest.mark.parametrize("entries", [[], journal(e.Tombstoned(at=AT))])
def test_a_saga_that_was_never_accepted_has_no_plan_of_its_own(entries: list[Entry]) -> None:
    assert State(id="s-1") == begun(Versions(family()[0]), entries)


def test_a_saga_of_a_newer_release_is_left_to_it() -> None:
    """Nothing here mends that, so that no fix is named."""
    newest, _ = family()
    plan = begun(Versions(newest), started(newest, "charge", 3)).plan
    assert plan is not None
    assert (3, True) == (plan.version, plan.newer)
    assert plan.misfit == "version 3 of stage 'payment' accepted it, a newer one"


def test_a_saga_of_a_version_that_is_not_declared_any_more_waits_for_a_person() -> None:
    """With the plan that its journal binds, and the fix."""
    _, before = family()
    today = declared("charge", version=2).bind()
    plan = begun(Versions(today), started(before, "bill", 1)).plan
    assert plan is not None
    assert (1, False, ["bill"]) == (plan.version, plan.newer, list(plan.by_name))
    why = "version 1 of stage 'payment' accepted it, not declared here"
    assert f"{why}; {MEND}" == plan.misfit


def test_a_saga_whose_step_is_another_one_by_now_waits_for_a_person() -> None:
    """Where the plan of its version is still the same, another release must have run it since."""
    today = declared("charge").bind()
    other = declared("charge", to="bank").bind()
    entries = started(other, "charge", 1, plan_hash=hash_of(other.plan))
    plan = begun(Versions(today), entries).plan
    assert plan is not None and not plan.newer
    assert plan.misfit.startswith("it does not fit stage 'payment' as it is declared now: ")
    assert "was a call to 'bank', and is a call to 'psp' now" in plan.misfit
    assert "another release ran it since" not in plan.misfit
    assert plan.misfit.endswith(f"; {MEND}")
    entries = started(other, "charge", 1, plan_hash=hash_of(today.plan))
    plan = begun(Versions(today), entries).plan
    assert plan is not None
    assert f"now (it was accepted so, and another release ran it since); {MEND}" in plan.misfit


def test_an_attempt_is_instructed_by_the_version_of_its_saga() -> None:
    """The step has that name in no other version."""
    newest, before = family()
    interpreter = Interpreter(Versions(newest), NullObserver(), SystemClock())
    saga = State(id="s-1", version=1, plan=before.plan)
    context = Context(envelope=None, envelope_bytes=b"", fingerprint="", trace=TraceContext())
    do = Do(kind=AttemptKind.EXECUTE, step="bill")
    assert before is interpreter.instruction(saga, do).participant
    conversation = interpreter.converse(
        saga, context, do, "k", AT, NullObserver().run("s-1", "payment", TraceContext(), ())
    )
    conversation.close()
