"""Planted defects in the use of an answer of an API: to an undo, a look, one of two requests.

See tests.simulation.mutants.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from stage.authoring.conversation import FunctionConversation
from stage.authoring.http import Http
from stage.authoring.steps import ResultTooLarge
from stage.core import events as e
from stage.core import machine, verbs
from stage.core.commands import AttemptKind
from stage.core.failure import FailureKind
from stage.core.states import Phase
from stage.engine.saga import attempts, interpreter
from stage.engine.saga.sender import Sender
from stage.ports.stage import Lost
from stage.simulation import network
from tests.simulation.mutants import Patches, further_in, further_under


@further_under("undo_accepted")
def an_undo_that_is_taken_on_counts_as_done(patches: Patches) -> None:
    """Rule 13: an undo that its API is still at is not asked for again."""

    def make(original: Any) -> Any:
        def end(do: Any, failed: Any, at: float) -> Any:
            if do.kind is AttemptKind.COMPENSATE and failed.kind is FailureKind.PENDING:
                return e.CompensationSucceeded(at=at, step=do.step)
            return original(do, failed, at)

        return end

    patches.wrap(attempts, "_failure_event", make)


@further_under("undo_denied")
def a_no_to_an_undo_counts_as_done(patches: Patches) -> None:
    """Rule 12: the API says that what stands cannot be undone, and the saga is called undone."""

    def make(original: Any) -> Any:
        def end(do: Any, failed: Any, at: float) -> Any:
            if do.kind is AttemptKind.COMPENSATE and failed.kind is FailureKind.REFUSED:
                return e.CompensationSucceeded(at=at, step=do.step)
            return original(do, failed, at)

        return end

    patches.wrap(attempts, "_failure_event", make)


@further_in("unconfirmed", under=("undo_refused",))
def a_no_to_an_undo_need_not_be_read(patches: Patches) -> None:
    """Decision 0108: an undo that looks at nothing has succeeded, whatever its API has said."""
    patches.set(Http, "check_read", lambda self, noes: None)


@further_in("paired", under=("api_refuses",))
def a_no_to_the_second_request_is_about_the_first(patches: Patches) -> None:
    """Rule 6: the call counts as refused, and the effect of its first request stands."""

    def make(original: Any) -> Any:
        def failure(self: Any, kind: Any, *more: Any, **words: Any) -> Any:
            return original(self, kind, *more, **{**words, "may_stand": False})

        return failure

    patches.wrap(FunctionConversation, "_failure", make)


@further_in("paired")
def a_further_request_leaves_without_its_intent(patches: Patches) -> None:
    """Rule 1: only the first request of a call is durable before it is sent."""

    async def intended(self: Any, do: Any, turn: Any, stored: Any, journal: Any) -> Any:
        return stored[turn.ordinal - 1] if turn.ordinal <= len(stored) else turn.request

    patches.set(Sender, "_intended", intended)


@further_in("looked", under=("answer_lost", "deadline"))
def an_undo_without_a_result_is_believed(patches: Patches) -> None:
    """Decision 0048: nobody looks what stands behind it, though its author asks for that."""

    def compensated(plan: Any, saga: Any, event: Any) -> Any:
        done = replace(saga.steps[event.step], phase=Phase.COMPENSATED, error="")
        return replace(saga, steps={**saga.steps, event.step: done})

    patches.set(machine, "_compensated", compensated)


@further_in("looked", under=("answer_lost", "deadline"))
def what_stands_behind_an_undo_is_undone_under_its_key(patches: Patches) -> None:
    """Decision 0048: the API is sent the undo that did nothing once more."""
    patches.set(verbs, "under_a_new_key", lambda step: step)


# --- answers and results that are too large (decision 0103) ---------------------------------------


@further_under("result_oversized")
def a_result_that_is_too_large_leaves_nothing(patches: Patches) -> None:
    """The call counts as refused for its result, and its effect stands."""

    def make(original: Any) -> Any:
        def failed(self: Any, error: Exception) -> Any:
            end = original(self, error)
            large = isinstance(error, ResultTooLarge)
            return msgspec.structs.replace(end, may_stand=False) if large else end

        return failed

    patches.wrap(FunctionConversation, "_failed", make)


@further_under("tail_oversized")
def an_answer_that_nobody_could_read_is_given(patches: Patches) -> None:
    """Downstream and the stage keep to the limits, and their data together do not."""
    patches.set(interpreter, "why_unreadable", lambda *_: "")


@further_under("api_oversized")
def an_answer_that_is_not_read_did_not_come_about(patches: Patches) -> None:
    """Rule 4: an answer beyond the limit counts as if nothing had happened."""

    def large(status: int) -> Lost:
        return Lost(reason=f"answered {status} with too much", certain=True)

    patches.set(network, "too_large", large)
