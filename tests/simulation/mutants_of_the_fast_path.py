"""Planted defects of the fast path: where it writes other entries, or another row, than the rules.

They are registered as those of `mutants` are. The sagas of every other world are on the fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.states import Tell
from stage.core.steps import Step, StepKind
from stage.engine.saga import fast_path
from stage.engine.saga.fast_path import FastTransition, Segment
from stage.engine.saga.instructions import Instruction
from stage.engine.saga.interpreter import Course, Interpreter
from stage.engine.saga.journal import Journal
from stage.ports.store import SagaRow
from tests.simulation.mutants import Patches, further, further_under


def _intents(patches: Patches, change: dict[str, Any]) -> None:
    """Change the intents that the fast path writes."""

    def make(original: Any) -> Any:
        def add(self: FastTransition, event: e.Event) -> None:
            original(self, replace(event, **change) if isinstance(event, e.StepStarted) else event)

        return add

    patches.wrap(FastTransition, "add", make)


@further
def the_fast_path_binds_nothing(patches: Patches) -> None:
    """Rule 32: a release after this one cannot tell what its steps were."""
    _intents(patches, {"bound": None})


@further
def the_fast_path_journals_no_request(patches: Patches) -> None:
    """Rule 5: a repeat cannot send the bytes of the first attempt."""
    _intents(patches, {"request": None})


@further
def the_fast_path_has_keys_of_its_own(patches: Patches) -> None:
    """Rule 2: a repeat off the fast path has another key."""

    def make(original: Any) -> Any:
        def key(self: Interpreter, done: Course, what: Instruction) -> str:
            forward = what.do.kind is AttemptKind.EXECUTE
            own = ":l" if isinstance(done, FastTransition) and forward else ""
            return f"{original(self, done, what)}{own}"

        return key

    patches.wrap(Interpreter, "_key", make)


@further
def the_fast_path_ends_before_the_last_transactions(patches: Patches) -> None:
    """Transactions behind the last call or forward are never run."""

    def make(original: Any) -> Any:
        def segments(plan: Any) -> Any:
            *others, last = original(plan) or (None,)
            return (*others, Segment(transactions=(), leaving=None)) if last else ()

        return segments

    patches.wrap(fast_path, "segments_of", make)


@further
def the_fast_path_hands_nothing_on(patches: Patches) -> None:
    """It completes without downstream, which upstream is not told."""

    def make(original: Any) -> Any:
        def segments(plan: Any) -> Any:
            found = original(plan)
            if len(found) > 1 and found[-2].leaving.kind is StepKind.FORWARD:
                return (*found[:-2], Segment(transactions=found[-2].transactions, leaving=None))
            return found

        return segments

    patches.wrap(fast_path, "segments_of", make)


@further
def a_saga_on_the_fast_path_is_never_due(patches: Patches) -> None:
    """Rule 15: no process takes it over when its own was lost."""

    def make(original: Any) -> Any:
        return lambda *given: replace(original(*given), due_at=None)

    patches.wrap(Journal, "_row_on_fast_path", make)


@further
def the_fast_path_loses_the_answer(patches: Patches) -> None:
    """The functions behind a call are given another result than the journal holds."""

    def make(original: Any) -> Any:
        def after(self: FastTransition, event: Any) -> FastTransition:
            fast: FastTransition = original(self, event)
            lost = {name: msgspec.Raw(b'{"id":"lost"}') for name in fast.results}
            fast.results = {**fast.results, event.step: lost[event.step]}
            return fast

        return after

    patches.wrap(FastTransition, "after", make)


# --- the way back --------------------------------------------------------------------------------


def _undos(patches: Patches, change: Callable[[tuple[Step, ...]], tuple[Step, ...]]) -> None:
    """Change what is undone behind the first undo, which the rules are asked for."""

    def make(original: Any) -> Any:
        def undos(*given: Any) -> Any:
            found = original(*given)
            return (*found[:1], *change(found[1:])) if found else found

        return undos

    patches.wrap(fast_path, "undos_of", make)


@further
def the_fast_path_undoes_in_another_order(patches: Patches) -> None:
    """Rule 7: an effect is undone while that stands which was built on it."""
    _undos(patches, lambda undos: undos[::-1])


@further
def the_fast_path_leaves_an_effect_behind(patches: Patches) -> None:
    """Rule 6: the first effect of the saga stands although it says that nothing does."""
    _undos(patches, lambda undos: undos[:-1])


def _rows_back(patches: Patches, change: Callable[[SagaRow, SagaRow], SagaRow]) -> None:
    """Change the rows of the way back; the second is the row before."""

    def make(original: Any) -> Any:
        return lambda self, fast, context, before: change(
            original(self, fast, context, before), before
        )

    patches.wrap(Journal, "_row_on_the_way_back", make)


@further
def a_saga_that_turned_round_keeps_its_epoch(patches: Patches) -> None:
    """Rule 17: the run before may write beside this one."""
    _rows_back(patches, lambda row, before: replace(row, epoch=before.epoch))


@further
def a_saga_that_was_undone_keeps_its_yes(patches: Patches) -> None:
    """A repeat of its request is answered that it was done."""
    _rows_back(
        patches,
        lambda row, before: (
            replace(row, answer_status=before.answer_status, answer_body=before.answer_body)
            if before.answered
            else row
        ),
    )


@further_under("not_waiting", "api_refuses")
def the_fast_path_notifies_nobody(patches: Patches) -> None:
    """Rule 22: upstream was answered 202, and never hears that the saga failed."""

    def make(original: Any) -> Any:
        def evolve(plan: Any, saga: Any, event: e.Event) -> Any:
            after = original(plan, saga, event)
            return replace(after, tell=Tell.NO) if isinstance(event, e.Compensated) else after

        return evolve

    patches.wrap(fast_path, "evolve", make)
