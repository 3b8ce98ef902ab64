"""The audit keeps each act of a person with its reason, and how the saga stood before and after."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.place import Place
from stage.core.requester import Requester
from stage.core.states import ParkCause, SagaState
from stage.core.sweep import Sweep, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.engine.saga.acts import acts_in, how_it_stands, sweep_act
from stage.ports.store import Act
from tests.unit.store.given import row

KEY = ActKey(key="k-1", digest="d")
PARKED = row(
    "s-1",
    parked="nobody knows",
    parked_cause=ParkCause.IN_DOUBT,
    place=Place("charge", "externals.psp"),
)
ENDED = row("s-1", state=SagaState.COMPENSATED)
ACT = Act(
    at=5.0,
    actor="kim",
    act="",
    target="s-1",
    reason="ticket 7",
    before="active, parked: in_doubt, waits at charge",
    after="compensated",
)


@pytest.mark.parametrize(
    "verb, name",
    [
        (e.Retried(at=5.0, actor="kim", why="ticket 7", act_key=KEY), "retried"),
        (
            e.Settled(at=5.0, actor="kim", why="ticket 7", act_key=KEY, step="charge", landed=True),
            "settled",
        ),
        (e.Resolved(at=5.0, actor="kim", why="ticket 7", act_key=KEY), "resolved"),
        (e.Abandoned(at=5.0, actor="kim", why="ticket 7", act_key=KEY), "abandoned"),
        (e.Forgotten(at=5.0, actor="kim", why="ticket 7", act_key=KEY), "forgotten"),
        (e.Approved(at=5.0, actor="kim", why="ticket 7", act_key=KEY, step="risk"), "approved"),
        (e.Rejected(at=5.0, actor="kim", why="ticket 7", act_key=KEY, step="risk"), "rejected"),
    ],
)
def test_each_verb_is_an_act_under_its_key(verb: e.Event, name: str) -> None:
    """Rule 14, and decision 0092: a repeat under the key is found."""
    progress = e.StepSucceeded(at=6.0, step="charge")
    expected = [(replace(ACT, act=name), KEY)]
    assert expected == list(acts_in([progress, verb, progress], PARKED, ENDED))


def test_a_request_to_compensate_is_an_act_where_a_person_made_it() -> None:
    """Neighbours make most of them: those are no acts, and the journal has them."""
    asked = e.CompensationRequested(
        at=5.0, requested_by="kim", requester=Requester.OPERATOR, reason="ticket 7"
    )
    assert [(replace(ACT, act="compensation_requested"), None)] == list(
        acts_in([asked], PARKED, ENDED)
    )
    for requester in (Requester.UPSTREAM, Requester.DOWNSTREAM, Requester.CLAIMED):
        assert [] == list(acts_in([replace(asked, requester=requester)], PARKED, ENDED))


def test_a_saga_that_nobody_acted_on_has_no_acts() -> None:
    """Most transitions are of this kind."""
    assert [] == list(acts_in([e.Completed(at=5.0)], PARKED, ENDED))
    assert [] == list(acts_in([], None, ENDED))


def test_an_act_on_a_saga_that_was_not_there_has_nothing_before_it() -> None:
    forgotten = e.Forgotten(at=5.0, actor="kim", why="ticket 7")
    assert [(replace(ACT, act="forgotten", before=""), None)] == list(
        acts_in([forgotten], None, ENDED)
    )


def test_a_saga_stands_in_its_state_with_what_it_waits_for() -> None:
    assert "completed" == how_it_stands(row("s-1", state=SagaState.COMPLETED))
    assert "active, parked: in_doubt" == how_it_stands(replace(PARKED, step=""))
    assert "active, waits at charge" == how_it_stands(replace(PARKED, parked_cause=None))


def test_the_act_of_a_sweep_names_its_number_its_sagas_and_its_filter() -> None:
    """The list of its sagas is not in the audit: these words say which it was for."""
    sweep = Sweep(
        number=3,
        at=1.0,
        actor="lee",
        verb=SweepVerb.RETRY,
        reason="the API is back",
        where="parked at charge",
        rate_per_second=5.0,
        state=SweepState.STOPPED,
        pending=1,
        done=2,
        refused=4,
    )
    assert sweep_act(sweep, "kim", "ticket 7", 5.0, before="running") == Act(
        at=5.0,
        actor="kim",
        act="sweep_retry",
        target="sweep 3",
        reason="ticket 7",
        before="running",
        after="stopped, 7 sagas: parked at charge",
    )
