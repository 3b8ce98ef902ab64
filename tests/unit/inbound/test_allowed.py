"""The verbs that are offered: `compensate` not where it would change nothing."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.machine import asked_before
from stage.core.requester import Requester
from stage.core.states import ParkCause
from stage.core.steps import Plan
from stage.inbound.allowed import why_not_turned_back
from tests.unit.core.test_ways_out import PARKS, judged, named, parked

ASKED = e.CompensationRequested(
    at=9.0, requested_by="operator kim", requester=Requester.OPERATOR, reason="ticket 7"
)


@pytest.mark.parametrize("cause, plan, events", PARKS, ids=lambda each: getattr(each, "value", ""))
def test_a_parked_saga_is_compensated_or_the_verb_that_works_is_named(
    cause: ParkCause, plan: Plan, events: tuple[e.Event, ...]
) -> None:
    """One that had turned back before it was parked stayed so, and no word was said of it."""
    saga = parked(cause, plan, events)
    why = why_not_turned_back(plan, saga)
    if why is None:
        assert not asked_before(plan, saga, ASKED)
    else:
        accepted, _ = judged(plan, saga)
        assert named(why) and named(why) <= accepted, why
