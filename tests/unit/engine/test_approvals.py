"""Approvals that wait: by step, with the end of the first by the plan of its saga."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from stage.core.steps import Plan, Step, StepKind, plan_of
from stage.engine.embedded.approvals import approvals_of
from stage.ports.store import Approvals, Asked

NOW = 10_000.0


def plan(version: int, timeout: float, **rules: Any) -> Plan:
    step = Step(name="risk", kind=StepKind.APPROVAL, pending_seconds_max=timeout)
    return replace(plan_of("payment", (step,)), version=version, **rules)


def asked(version: int, waited: float, step: str = "risk", ago: float = 0.0) -> Asked:
    return Asked(
        version=version,
        step=step,
        sagas=2,
        oldest_asked_at=NOW - (ago or waited),
        oldest_waited_seconds=waited,
    )


def test_an_approval_that_nobody_is_asked_for_is_there() -> None:
    """A series that begins with its first saga would have no past."""
    assert (Approvals(step="risk"),) == approvals_of([], {1: plan(1, 60.0)}, NOW)


def test_each_saga_has_the_time_out_of_its_own_version() -> None:
    """The older one was asked first and still has more time than the newer."""
    plans = {2: plan(2, 100.0), 1: plan(1, 1_000.0)}
    (found,) = approvals_of([asked(1, 500.0), asked(2, 30.0)], plans, NOW)
    assert (
        Approvals(step="risk", sagas=4, oldest_asked_at=NOW - 500.0, first_ends_at=NOW + 70.0)
        == found
    )


def test_time_without_a_process_does_not_count() -> None:
    """Asked a day ago, and its journal accounts for ten minutes: so does its time-out."""
    (found,) = approvals_of([asked(1, 600.0, ago=86_400.0)], {1: plan(1, 3_600.0)}, NOW)
    assert (NOW - 86_400.0, NOW + 3_000.0) == (found.oldest_asked_at, found.first_ends_at)


def test_a_version_that_is_not_declared_here_has_no_known_end() -> None:
    """That of a newer release, or one that was dropped: its sagas wait all the same."""
    waits = [asked(9, 5.0), asked(9, 7.0, "review")]
    review, risk = approvals_of(waits, {1: plan(1, 9.0)}, NOW)
    assert Approvals(step="review", sagas=2, oldest_asked_at=NOW - 7.0) == review
    assert Approvals(step="risk", sagas=2, oldest_asked_at=NOW - 5.0) == risk


def test_a_row_from_before_a_renaming_counts_at_the_step_of_today() -> None:
    """Its saga is written again within minutes; until then the alert would name no step."""
    plans = {1: plan(1, 60.0, renamed={"check": "risk"})}
    assert (
        Approvals(step="risk", sagas=2, oldest_asked_at=NOW - 5.0, first_ends_at=NOW + 55.0),
    ) == approvals_of([asked(1, 5.0, "check")], plans, NOW)
