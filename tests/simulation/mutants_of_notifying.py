"""Planted defects around an upstream that says it cannot compensate (rule 22).

See tests.simulation.mutants.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from stage.core import machine, verbs
from tests.simulation.mutants import Patches, further_under


@further_under("client_cannot", "not_waiting", "tail_fails_late", "operator")
def an_upstream_that_said_it_cannot_is_not_notified_again(patches: Patches) -> None:
    """Rule 22: the park ends by a verb or a webhook, and upstream believes its yes for ever."""

    def free(saga: Any, at: float) -> Any:
        return replace(saga, parked="", parked_cause=None)

    patches.set(verbs, "waits_no_more", free)


@further_under("client_cannot", "not_waiting", "tail_fails_late")
def an_upstream_that_turns_back_by_itself_is_not_heard(patches: Patches) -> None:
    """Rule 22: a person is asked for an upstream that has asked to compensate since."""
    patches.set(machine, "_knows_by_itself", lambda saga: saga)
