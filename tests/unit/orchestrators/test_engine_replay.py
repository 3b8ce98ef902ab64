"""Workflows that an earlier release began are taken up by this one: histories are replayed.

A change that fails here needs `workflow.patched`. A history is recorded anew only for a story that
is new: `temporal workflow show --output json --workflow-id ID` of a dev server writes one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from stage.engine.temporal.workflow import DUE, WORKFLOW, RunAsk, SagaRun

HISTORIES = Path(__file__).with_name("engine_histories")
STORIES = ("completed", "rested", "poked", "due", "due_meanwhile")


@workflow.defn(name=WORKFLOW)
class Hasty(SagaRun):
    """As a careless release would have it: a scan's signal counts while a run is under way."""

    @workflow.run
    async def run(self, ask: RunAsk) -> None:
        """As it is."""
        await super().run(ask)

    @workflow.signal(name=DUE)
    def due(self) -> None:
        """Run it again."""
        self._poked = True


@workflow.defn(name=WORKFLOW)
class Waits(SagaRun):
    """Waits a second before the first run."""

    @workflow.run
    async def run(self, ask: RunAsk) -> None:
        """Start a timer that no history has."""
        await workflow.sleep(1)
        await super().run(ask)


@workflow.defn(name=WORKFLOW)
class Patched(SagaRun):
    """Waits too, but only in workflows that begin under this release."""

    @workflow.run
    async def run(self, ask: RunAsk) -> None:
        """Start the timer behind a mark."""
        if workflow.patched("wait-first"):
            await workflow.sleep(1)
        await super().run(ask)


async def replay(story: str, workflow: type) -> None:
    """Replay a recorded workflow. Raises NondeterminismError where the code goes another way."""
    history = WorkflowHistory.from_json(story, (HISTORIES / f"{story}.json").read_text("utf-8"))
    replayer = Replayer(workflows=[workflow], workflow_runner=UnsandboxedWorkflowRunner())
    await replayer.replay_workflow(history)


def test_every_recorded_story_is_replayed() -> None:
    """A history that is in the folder alone would test nothing."""
    assert set(STORIES) == {path.stem for path in HISTORIES.glob("*.json")}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("release", [SagaRun, Patched])
async def test_a_workflow_of_an_earlier_release_is_taken_up(story: str, release: type) -> None:
    """Run once, rested, poked in a run, found due in a rest and in a run; also behind a mark."""
    await replay(story, release)


@pytest.mark.parametrize("story", STORIES)
async def test_a_step_in_between_is_refused(story: str) -> None:
    """The task of the workflow fails at Temporal, until a release comes that knows the way."""
    with pytest.raises(NondeterminismError):
        await replay(story, Waits)


async def test_a_run_where_none_was_is_refused() -> None:
    """A signal that counts at another time leads to another run."""
    with pytest.raises(NondeterminismError):
        await replay("due_meanwhile", Hasty)
