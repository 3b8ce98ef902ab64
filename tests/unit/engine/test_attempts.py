"""The attempts of a step: which bytes one repeats, and the event that its end becomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do
from stage.core.errors import StageError
from stage.core.failure import FailureKind
from stage.core.saga import Saga, StepState
from stage.core.states import Phase
from stage.engine.saga.attempts import as_repeat, end_event, end_span, links_of, stored_requests
from stage.ports.stage import Failed, Finished, Foreign, Send, Turn
from tests.unit.engine.given import NotedSpan

EXECUTE, PROBE, COMPENSATE, TELL = AttemptKind
RESULT = msgspec.Raw(b'{"charge_id":"c-1"}')
CHARGE = e.Request(method="POST", path="/charges?at=1", body=b"1")
SECOND = e.Request(method="POST", path="/confirm", body=b"2")
REFUND = e.Request(method="POST", path="/refunds", body=b"3")
EVERYTHING = Failed(
    kind=FailureKind.TRANSIENT,
    reason="answered 503",
    retry_after=7.0,
    may_stand=True,
    may_come=True,
    changed=True,
    said=True,
    final=True,
)
"""An end of which all is known that any event keeps."""


def of(kind: AttemptKind, attempt: int = 1) -> Do:
    return Do(kind=kind, step="" if kind is TELL else "charge", attempt=attempt)


def end_of(kind: AttemptKind, failure: FailureKind, **known: Any) -> e.AttemptEnd:
    """The event of an end of which nothing is known but what is given."""
    return end_event(of(kind), Failed(kind=failure, reason="no", **known), 1.0)


@pytest.mark.parametrize(
    "failure, event",
    [
        (
            FailureKind.REFUSED,
            e.StepRefused(at=1.0, step="charge", reason="answered 503", may_stand=True, said=True),
        ),
        (
            FailureKind.TRANSIENT,
            e.StepTransient(
                at=1.0, step="charge", reason="answered 503", retry_after=7.0, may_stand=True,
                may_come=True, final=True,
            ),
        ),
        (
            FailureKind.PENDING,
            e.StepPending(at=1.0, step="charge", reason="answered 503", retry_after=7.0),
        ),
        (
            FailureKind.DEFECT,
            e.StepTransient(at=1.0, step="charge", reason="answered 503", defect=True, final=True),
        ),
        (
            FailureKind.IN_DOUBT,
            e.StepInDoubt(at=1.0, step="charge", reason="answered 503", changed=True, final=True),
        ),
    ],
)  # fmt: skip
def test_the_end_of_an_execution_keeps_what_the_rules_ask_of_it(
    failure: FailureKind, event: e.Event
) -> None:
    """Rule 4: how long to wait, whether something may stand, and whether it is the last attempt."""
    assert event == end_event(of(EXECUTE), replace(EVERYTHING, kind=failure), 1.0)


def test_a_refusal_that_nobody_said_is_not_passed_on_as_the_word_of_the_author() -> None:
    """Rule 38: neighbours read the reason only where `said` stands."""
    event = end_of(EXECUTE, FailureKind.REFUSED)
    assert e.StepRefused(at=1.0, step="charge", reason="no") == event


@pytest.mark.parametrize(
    "failure, said, event",
    [
        (FailureKind.REFUSED, True, e.ProbeRefused(at=1.0, step="charge", reason="no")),
        (FailureKind.REFUSED, False, e.ProbeFailed(at=1.0, step="charge", reason="no")),
        (FailureKind.TRANSIENT, True, e.ProbeFailed(at=1.0, step="charge", reason="no")),
        (FailureKind.IN_DOUBT, False, e.ProbeFailed(at=1.0, step="charge", reason="no")),
        (FailureKind.PENDING, False, e.ProbePending(at=1.0, step="charge", reason="no")),
    ],
)
def test_only_a_refusal_that_the_author_said_settles_a_doubt(
    failure: FailureKind, said: bool, event: e.Event
) -> None:
    """Rule 5: any other end of a probe leaves the doubt as it was."""
    assert event == end_of(PROBE, failure, said=said)


@pytest.mark.parametrize("failure", [FailureKind.TRANSIENT, FailureKind.PENDING])
def test_a_probe_passes_on_for_how_long_it_was_asked_to_wait(failure: FailureKind) -> None:
    """The machine heeds it before the next one."""
    event = end_of(PROBE, failure, retry_after=7.0)
    assert isinstance(event, e.ProbeFailed | e.ProbePending)
    assert 7.0 == event.retry_after


@pytest.mark.parametrize(
    "failure, known, certain",
    [
        (FailureKind.TRANSIENT, {}, True),
        (FailureKind.REFUSED, {}, True),
        (FailureKind.DEFECT, {}, True),
        (FailureKind.IN_DOUBT, {}, False),
        (FailureKind.PENDING, {}, False),
        (FailureKind.TRANSIENT, {"may_stand": True}, False),
        (FailureKind.REFUSED, {"may_stand": True}, False),
        (FailureKind.REFUSED, {"changed": True}, False),
    ],
)
def test_an_undo_had_certainly_no_effect_only_where_nothing_says_that_it_may_have(
    failure: FailureKind, known: dict[str, bool], certain: bool
) -> None:
    """Rule 28: an attempt that may have had one counts, and its bytes are repeated."""
    event = end_of(COMPENSATE, failure, **known)
    refused = failure is FailureKind.REFUSED
    assert isinstance(event, e.CompensationRefused if refused else e.CompensationDelayed)
    assert ("charge", "no", certain) == (event.step, event.reason, event.certain)


def test_a_delayed_undo_keeps_its_pause_and_that_it_may_still_come() -> None:
    """Decision 0087: the same bytes are sent again, and not sooner than the API asked."""
    event = end_of(COMPENSATE, FailureKind.TRANSIENT, retry_after=7.0, may_come=True)
    assert event == e.CompensationDelayed(
        at=1.0, step="charge", reason="no", retry_after=7.0, may_come=True, certain=True
    )


def test_upstream_that_was_not_notified_is_notified_later() -> None:
    """After every kind of failure: a late one travels up until it is answered (rule 22)."""
    for failure in FailureKind:
        event = end_of(TELL, failure, retry_after=7.0)
        assert e.TellDelayed(at=1.0, reason="no", retry_after=7.0) == event


@pytest.mark.parametrize(
    "kind, result, event",
    [
        (EXECUTE, RESULT, e.StepSucceeded(at=1.0, step="charge", result=RESULT)),
        (PROBE, RESULT, e.ProbeFound(at=1.0, step="charge", result=RESULT)),
        (PROBE, msgspec.Raw(b"null"), e.ProbeNotThere(at=1.0, step="charge")),
        (COMPENSATE, msgspec.Raw(b"null"), e.CompensationSucceeded(at=1.0, step="charge")),
    ],
)
def test_a_function_that_returned_ends_its_attempt_well(
    kind: AttemptKind, result: msgspec.Raw, event: e.Event
) -> None:
    """A probe that returns nothing did not find the effect."""
    assert event == end_event(of(kind), Finished(result=result), 1.0)


@pytest.mark.parametrize("turn", [Send(request=CHARGE, ordinal=1), Foreign()])
def test_a_function_that_goes_on_has_not_ended(turn: Turn) -> None:
    """It would be written down as an end that it never had."""
    with pytest.raises(StageError, match=f"'charge' has not ended: {type(turn).__name__}"):
        end_event(of(EXECUTE), turn, 1.0)


def test_the_author_redacts_the_reason_that_is_kept() -> None:
    """Rule 38."""
    failed = Failed(kind=FailureKind.IN_DOUBT, reason="card 4111")
    event = end_event(of(EXECUTE), failed, 1.0, lambda text: text.replace("4111", "****"))
    assert e.StepInDoubt(at=1.0, step="charge", reason="card ****") == event


def test_the_span_of_an_attempt_ends_as_its_event_does() -> None:
    """With its name, its reason and its instant; a span without an id is never reported."""
    traced, untraced = NotedSpan("1" * 16), NotedSpan("")
    for span in (traced, untraced):
        end_span(span, e.StepInDoubt(at=5.0, step="charge", reason="no answer"))
    assert [("step_in_doubt", "no answer", 5.0)] == traced.ends
    assert [] == untraced.ends


def test_an_attempt_links_to_what_it_repeats_looks_for_or_undoes() -> None:
    """Rule 23: each kind to the latest attempt of the step and to the latest of its own kind."""
    step = StepState(phase=Phase.IN_DOUBT, order=0, span="a", probe_span="b", compensation_span="c")
    assert {EXECUTE: ("a",), PROBE: ("a", "b"), COMPENSATE: ("a", "c")} == {
        kind: links_of(step, kind) for kind in (EXECUTE, PROBE, COMPENSATE)
    }
    assert () == links_of(replace(step, span="", probe_span=""), PROBE)


def test_a_repeat_finds_the_requests_whose_intent_is_durable() -> None:
    """Rule 5: an execution and an undo each find their own; a probe asks anew every time."""
    step = StepState(
        phase=Phase.IN_DOUBT, order=0, requests=(CHARGE, SECOND), compensation_requests=(REFUND,)
    )
    saga = Saga(id="s-1", steps={"charge": step})
    assert (CHARGE, SECOND) == stored_requests(saga, of(EXECUTE))
    assert (REFUND,) == stored_requests(saga, of(COMPENSATE))
    assert () == stored_requests(saga, of(PROBE))
    assert () == stored_requests(Saga(id="s-1"), of(EXECUTE))


STORED = (CHARGE, SECOND)
SAME = [
    (1, replace(CHARGE)),
    (1, replace(CHARGE, path="/charges?at=2", body=b"other", headers=(("a", "b"),))),
    (2, replace(SECOND)),
    (3, e.Request(method="DELETE", path="/anything")),
]
"""Repeats that may be sent: the stored request with other data, or one behind the stored ones."""


@pytest.mark.parametrize("kind", [EXECUTE, COMPENSATE])
@pytest.mark.parametrize("ordinal, request_", SAME)
def test_a_request_with_its_method_and_path_is_a_repeat(
    kind: AttemptKind, ordinal: int, request_: e.Request
) -> None:
    """Queries and bodies are data, of which the stored ones are sent."""
    turn = Send(request=request_, ordinal=ordinal)
    assert turn is as_repeat(of(kind), turn, STORED)


@pytest.mark.parametrize(
    "ordinal, request_, was, would",
    [
        (1, replace(CHARGE, method="PUT"), "POST /charges", "PUT /charges"),
        (1, replace(CHARGE, path="/charge?at=1"), "POST /charges", "POST /charge"),
        (2, CHARGE, "POST /confirm", "POST /charges"),
    ],
)
def test_another_request_in_its_place_is_never_sent(
    ordinal: int, request_: e.Request, was: str, would: str
) -> None:
    """Rule 31: the stored one may have had an effect. The words name both, and the way out."""
    turn = Send(request=request_, ordinal=ordinal)
    forward, backward = (as_repeat(of(kind), turn, STORED) for kind in (EXECUTE, COMPENSATE))
    assert isinstance(forward, Failed) and isinstance(backward, Failed)
    for failed in (forward, backward):
        assert failed.changed
        assert f"not sent: {was} may have had an effect" in failed.reason
        assert f"would send {would} in its place" in failed.reason
    assert FailureKind.IN_DOUBT is forward.kind
    assert forward.reason.endswith("settle it, or deploy the code that sent it")
    assert FailureKind.REFUSED is backward.kind
    assert backward.reason.endswith("retry it with --anew")


def test_an_end_stays_an_end_whatever_was_stored() -> None:
    """A function that ends without sending has nothing to repeat."""
    turn = Finished(result=RESULT)
    assert turn is as_repeat(of(EXECUTE), turn, STORED)
