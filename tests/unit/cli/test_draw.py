"""The drawings of a saga: tables and trees for an operator."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.cli.draw import (
    draw_acts,
    draw_groups,
    draw_now,
    draw_page,
    draw_peers,
    draw_saga,
    draw_sweep,
)
from stage.cli.pause import seconds_of
from stage.cli.waterfall import draw_chain
from stage.cli.where import query_of
from stage.core.states import ParkCause
from stage.wire.chain import ChainView, StageStory
from stage.wire.outcome import Outcome
from stage.wire.views import (
    ActPage,
    ActView,
    ApprovalsView,
    GroupsView,
    GroupView,
    HourView,
    NowView,
    PeersView,
    PeerView,
    PlacesView,
    RefusalView,
    SagaPage,
    SagaView,
    SweepSagaView,
    SweepView,
)

PARKED = SagaView(
    saga_id="s-1",
    stage="payment",
    state="active",
    outcome=Outcome.UNKNOWN,
    parked=True,
    parked_reason="charge is in doubt",
    parked_cause=ParkCause.IN_DOUBT,
    accepted_at="2026-11-23T02:30:00Z",
    updated_at="2026-11-23T02:30:01Z",
)


def test_a_parked_saga_shows_its_cause_and_its_reason() -> None:
    """The cause leads to the row of the page for operators, the reason is for people."""
    assert "active, parked (in_doubt)" in draw_page(SagaPage(sagas=[PARKED]))
    shown = draw_saga(PARKED, [], now=0.0)
    assert "active (unknown), parked (in_doubt): charge is in doubt" in shown


def test_a_parked_saga_says_its_way_out() -> None:
    """The verb to press, and what comes before it."""
    shown = draw_saga(PARKED, [], now=0.0)
    assert "\n  way out: ask the API, then settle\n" in f"{shown}\n"


def test_a_saga_of_another_version_shows_what_its_journal_says_and_the_whole_fix() -> None:
    """It is nothing to believe, and all that there is to begin with; a fix is not cut."""
    why = f"it does not fit: {'x' * 150}; say renamed="
    other = replace(PARKED, standing="unknown", stands=["charge"], may_stand=[], next_action=why)
    shown = draw_saga(other, [], now=0.0)
    assert "is of another version\n  as journaled: charge\n" in shown
    assert "say renamed=\n" in shown


def test_a_list_says_for_what_a_saga_waits() -> None:
    """Its row holds no time that is exact: recovery goes by one, and a live saga by its own."""
    waits = replace(
        PARKED,
        parked=False,
        parked_reason=None,
        parked_cause=None,
        step="charge",
        peer="externals.psp",
        next_action=None,
        next_action_at="2999-01-01T00:00:00.000Z",
    )
    paused = replace(waits, paused_until="2999-01-02T00:00:00.000Z")
    runs = replace(waits, step=None, peer=None)
    over = replace(runs, state="completed", next_action_at=None)
    _, *lines = draw_page(SagaPage(sagas=[waits, paused, runs, over])).splitlines()
    said = [line.partition(waits.updated_at)[2].strip() for line in lines]
    assert [
        "waits at charge for externals.psp",
        "waits at charge for externals.psp, which is paused until 2999-01-02T00:00:00.000Z",
        "under way",
        "",
    ] == said


def test_the_deadline_is_shown_while_it_can_end_something() -> None:
    """An undo is never cut by it."""
    goes = replace(PARKED, deadline="1970-01-01T00:01:00.000Z")
    assert "deadline  1970-01-01T00:01:00.000Z (in 20.0 s)" in draw_saga(goes, [], now=40.0)
    assert "deadline  1970-01-01T00:01:00.000Z (passed)" in draw_saga(goes, [], now=60.0)
    assert "deadline" not in draw_saga(replace(goes, state="compensating"), [], now=40.0)


def test_a_parked_saga_of_another_program_may_have_no_cause() -> None:
    """The member is newer than the protocol's first stages."""
    shown = draw_saga(replace(PARKED, parked_cause=None), [], now=0.0)

    assert "active (unknown), parked: charge is in doubt" in shown


def test_the_chain_shows_the_cause_of_each_stage() -> None:
    """A cause comes from a neighbour, so it is made harmless like its other words."""
    story = StageStory(
        stage="payment", state="active", parked_reason="look", parked_cause="in_doubt\x1b[2J"
    )

    drawn = draw_chain(ChainView(saga_id="s-1", stages=[story]))

    assert "payment: active, parked (in_doubt [2J): look" in drawn


def test_groups_are_drawn_with_those_that_wait_for_a_person_first() -> None:
    """One line each, with the age of the oldest in the unit in which it is counted."""
    waits = GroupView(
        step="charge", peer="externals.psp", state="active", direction="forward", sagas=5_000,
        oldest_at="2026-11-23T02:29:58.120Z", oldest_seconds=7_300.0,
    )  # fmt: skip
    parked = replace(waits, parked_cause="in_doubt", sagas=2, oldest_seconds=3.4)
    asked = replace(waits, step="risk", peer=None, approval=True)
    drawn = draw_groups(GroupsView(groups=[waits, parked, asked])).splitlines()
    assert ["awaits_approval", "risk", "-"] == drawn.pop(2).split()[:3]
    assert ["in_doubt", "charge", "externals.psp", "forward", "2", "3", "s"] == drawn[1].split()
    assert ["waits", "charge", "externals.psp", "forward", "5000", "2", "h"] == drawn[2].split()


def test_the_stage_is_drawn_with_its_figures() -> None:
    """An undo that is not done for two hours is said, and a replica that takes nothing."""
    now = NowView(
        stage="pay\x1b[31m", release="1.0", at="2026-11-23T04:30:00.000Z", ready=True,
        clock_jump_seconds=0.0, live=3, in_doubt=3, sagas={"active": 3, "completed": 9},
        parked={"in_doubt": 2},
        approvals=[
            ApprovalsView(
                step="risk", sagas=2, oldest_asked_at="2026-11-23T02:00:00.000Z",
                first_ends_at="2026-11-23T04:35:00.000Z",
            ),
        ],
        oldest_compensation_at="2026-11-23T02:29:58.120Z",
        lately=HourView(
            seconds=3600.0, completed=9, compensated=1, success_ratio=0.9,
            refusals=[RefusalView(step="charge", reason="no\x1b[31m money", sagas=1)],
        ),
        places=[PlacesView(what="sagas", limit=1000, in_use=3)], replicas=2,
        database_bytes={"database": 4_100_000, "wal": 20_000},
    )  # fmt: skip
    drawn = draw_now(now)
    assert ": ready; under way in this replica 3, in doubt there or parked so 3, parked 2" in drawn
    assert "parked 2, undo delayed: 2 h\n" in drawn
    assert "3 active, 9 completed\n2 await approval at risk, the oldest for 2.5 h;" in drawn
    assert "risk, the oldest for 2.5 h; silence is a no in 5 min\n" in drawn
    assert "last hour in this replica: 90.0 % completed\n1 turned back at charge: no" in drawn
    assert "limits of this replica: sagas 3 of 1000\n" in drawn
    assert drawn.endswith("database 4.1 MB, wal 0.0 MB, 2 replicas")
    assert "\x1b" not in drawn
    assert "NOT READY" in draw_now(replace(now, ready=False))


def test_acts_are_drawn_with_what_they_changed() -> None:
    """And with the number behind which the next page begins."""
    act = ActView(
        number=7, at="2026-11-23T02:29:58.120Z", actor="kim", act="retried", target="s-1",
        reason="psp\x1b[31m is back", before="active, parked: in_doubt", after="active",
    )  # fmt: skip
    drawn = draw_acts(ActPage(acts=[act], next=7))
    assert "active, parked: in_doubt → active" in drawn
    assert "\x1b" not in drawn
    assert drawn.endswith("more: --before 7")


def test_options_that_name_many_sagas_become_parameters() -> None:
    """Those that were given, and a flag only where it is set."""
    given = {"state": ("active",), "parked": False, "cause": None, "older_than": 60.0, "step": "a"}
    assert [("state", "active"), ("older_than", "60.0"), ("step", "a")] == query_of(given)


@pytest.mark.parametrize(
    "text, seconds",
    [("90", 90.0), ("90s", 90.0), ("15min", 900.0), ("2h", 7_200.0), ("1.5d", 129_600.0)],
)
def test_a_duration_is_read_as_people_write_it(text: str, seconds: float) -> None:
    """In the unit that stands behind it; a bare number is in seconds."""
    assert seconds == seconds_of(text)


@pytest.mark.parametrize("text", ["", "h", "soon", "2 weeks"])
def test_words_are_no_duration(text: str) -> None:
    """The command line says which units there are."""
    with pytest.raises(ValueError, match="float"):
        seconds_of(text)


SWEEP = SweepView(
    number=7, at="2026-11-23T02:29:58.120Z", actor="kim", verb="retry", reason="psp is back",
    where="2 sagas by id", rate_per_second=10.0, state="running", sagas=5, pending=2, done=2,
    refused=1,
)  # fmt: skip


def test_a_sweep_is_drawn_with_its_progress_and_the_sagas_that_it_could_not_act_on() -> None:
    """Through with three of five, of which one was refused."""
    refused = [SweepSagaView(saga_id="s-3", detail="nothing of it waits")]
    drawn = draw_sweep(replace(SWEEP, first_refused=refused))
    assert "3/5" in drawn
    assert drawn.endswith("refused\n  s-3: nothing of it waits")


def test_a_dry_run_lists_the_first_sagas_and_counts_the_others() -> None:
    """Twenty lines, whatever the number."""
    first = [f"s-{number}" for number in range(50)]
    drawn = draw_sweep(replace(SWEEP, number=None, sagas=5_000, first=first)).splitlines()
    assert "retry would be done to 5000 sagas" == drawn[0]
    assert ["  s-0", "  s-19", "  and 4980 more"] == [drawn[1], drawn[20], drawn[21]]


@pytest.mark.parametrize("left, words", [(5_000, "5,000 are left"), (20_000, "20,000 or more are")])
def test_a_purge_says_how_many_it_leaves(left: int, words: str) -> None:
    """They are the next ones of the same command; beyond a number nobody has counted them."""
    for purge in (replace(SWEEP, left=left), replace(SWEEP, number=None, left=left)):
        last = draw_sweep(purge).splitlines()[-1]
        assert last.startswith(words) and "again once this one is done" in last
    assert "left" not in draw_sweep(SWEEP)


def test_a_peer_is_drawn_with_both_directions() -> None:
    """Sagas that wait forward, and those that wait for an undo or for a message of it."""
    group = GroupView(
        step="charge", state="active", direction="forward", sagas=3,
        oldest_at="2026-11-23T02:29:58.120Z", oldest_seconds=1.0,
    )  # fmt: skip
    back = replace(group, state="compensating", direction="backward", sagas=4)
    peer = PeerView(
        peer="externals.psp", breaker_open=True, places=8, queued=2, waiting=[group, back]
    )
    line = draw_peers(PeersView(peers=[peer])).splitlines()[1]
    assert ["externals.psp", "failing", "3", "4", "0/8", "2"] == line.split()[:6]
