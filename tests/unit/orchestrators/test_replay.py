"""Runs that an earlier release began are taken up by this one: recorded histories are replayed.

A change that fails here needs `workflow.patched`. A history is recorded anew only for a story that
is new: `temporal workflow show --output json --workflow-id ID` of a dev server writes one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from stage.orchestrators.temporal.workflow import SagaChain
from tests.unit.orchestrators.changed import Forwards, Patched, Waits

HISTORIES = Path(__file__).with_name("histories")
STORIES = (*("asks_on", "completed", "given_up", "ran_on", "refused", "turned", "turned_between"),)
ON_THE_WAY_BACK = {"asks_on": 35, "given_up": 29}
"""So many events are there while a stage is asked to compensate: one run was cancelled by then."""


async def replay(story: str, workflow: type, events: int | None = None) -> None:
    """Replay a recorded run, or its first `events`, and evict it.

    Raises NondeterminismError where the code wants something else.
    """
    history = WorkflowHistory.from_json(story, (HISTORIES / f"{story}.json").read_text("utf-8"))
    history = replace(history, events=history.events[:events])
    await Replayer(workflows=[workflow]).replay_workflow(history)


def test_every_recorded_story_is_replayed() -> None:
    """A history that is in the folder alone would test nothing."""
    assert set(STORIES) == {path.stem for path in HISTORIES.glob("*.json")}


@pytest.mark.parametrize("story", STORIES)
async def test_a_run_of_an_earlier_release_is_taken_up(story: str) -> None:
    """Completed, refused, turned round by a signal, and cancelled on the way back.

    `given_up` is of a release whose cancelled runs gave up the stage that they were asking, and
    `ran_on` of one that ran all stages where a request to compensate came with an answer.
    """
    await replay(story, SagaChain)


@pytest.mark.parametrize("story, events", ON_THE_WAY_BACK.items())
async def test_a_run_on_its_way_back_is_evicted(
    story: str, events: int, caplog: pytest.LogCaptureFixture
) -> None:
    """No task of it is left, though a cancellation does not reach the way back."""
    with caplog.at_level(logging.WARNING):
        await replay(story, SagaChain, events)
    assert [] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("story", ["refused", "turned"])
async def test_another_order_of_compensations_is_refused(story: str) -> None:
    """Temporal stops the run before it sends anything."""
    with pytest.raises(NondeterminismError):
        await replay(story, Forwards)


@pytest.mark.parametrize("story", STORIES)
async def test_a_step_in_between_is_refused(story: str) -> None:
    """Even one that reaches no stage."""
    with pytest.raises(NondeterminismError):
        await replay(story, Waits)


@pytest.mark.parametrize("story", STORIES)
async def test_the_same_step_behind_a_mark_is_taken_up(story: str) -> None:
    """`workflow.patched` keeps it from runs that began without it."""
    await replay(story, Patched)
