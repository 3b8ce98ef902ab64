"""Words for an operator who is woken at night: the meaning of each verb, and the way out of a park.

The console and the command line say the same, and so does the operator's page.
"""

from __future__ import annotations

from typing import Final

from stage.core.forecast import Prospect
from stage.core.questions import Standing
from stage.core.states import ParkCause, Phase, SagaState

MEANINGS: Final = {
    "retry": "tries now what is due, under the same keys; an undo also anew, or under a new key",
    "approve": "says yes to the step that awaits approval: the saga goes on",
    "reject": "says no to the step that awaits approval: the saga turns back",
    "settle": "states whether the step in doubt has landed: ask its API first, by the key",
    "compensate": "turns it back, here and downstream, and upstream where that believes in a yes",
    "resolve": "states that a person has undone what still stands: undo it there first",
    "abandon": "gives up what is left to undo: that stands, and upstream is notified",
    "forget": "gives the saga up: what stands stays, and its payload and results are dropped",
    "erase": "drops all contents, also from the files: its id and its outcome stay",
}
"""The verbs in the order of the harm that they may do."""

WAYS_OUT: Final = {
    ParkCause.IN_DOUBT: "ask the API, then settle",
    ParkCause.PIVOT_IN_DOUBT: "ask the API, then settle",
    ParkCause.BEHIND_PIVOT: "settle it where it is in doubt, mend its cause, then retry",
    ParkCause.OUTPUT_FAILED: "mend the code, then retry",
    ParkCause.REQUEST_CHANGED: "settle it, or deploy the code that sent it and retry",
    ParkCause.FAILED_TO_COMPENSATE: (
        "retry once the cause is gone, or undo it by hand at the API and resolve"
    ),
    ParkCause.LANDED_LATE: "ask the API by the key, undo it there by hand, then forget",
    ParkCause.NOT_UNDERSTOOD: "mend the route or the login, then retry",
    ParkCause.UPSTREAM_CANNOT: "mend it at upstream, then retry",
    ParkCause.UPSTREAM_AWAY: "bring upstream back, then retry",
    ParkCause.LOST_RUNS: "find out what ends the process, then retry",
    ParkCause.KILLS_PROCESS: "mend the code, then retry",
    ParkCause.LOST: "compensate, unless it should stand",
    ParkCause.MISFIT: "deploy the version that accepted it and retry, or resolve or abandon",
    ParkCause.JOURNAL_MISMATCH: "look at its effects, then forget",
    ParkCause.DEFECT: "mend what the log shows, then retry",
}
"""By the cause for which a saga waits for a person, the act of that person."""


NOBODY_KNOWS: Final = "nobody knows what stands: the journal was dropped, or is of another version"
PROSPECTS: Final = {
    Prospect.COMPENSATE: "compensated",
    Prospect.PROBE_FIRST: "in doubt: probed, then compensated",
    Prospect.WITHOUT_RESULT: "in doubt: compensated without a result",
    Prospect.SETTLE_FIRST: "in doubt: it waits until a person settles it",
    Prospect.WAIT_FIRST: "in flight: its end is awaited, then compensated",
    Prospect.PIVOT_FIRST: "waits for the pivot: compensated only if that has not happened",
    Prospect.NOTHING: "nothing to undo is declared",
    Prospect.CANNOT: "CANNOT be undone by itself: a person has to",
}
"""By the prospect of a step, what a compensation would make of it."""


FITS_AGAIN: Final = "it fits what is declared now: retry"


def way_out(cause: str | None, standing: str | None = None) -> str:
    """The act that ends a park of that cause; empty for a cause of another release.

    `standing` is that of the saga as it is read now: a misfit of which something is known fits the
    release that reads it, whatever the reason of its park says of the one that parked it.
    """
    if cause == ParkCause.MISFIT and standing not in (None, Standing.UNKNOWN):
        return FITS_AGAIN
    return WAYS_OUT[ParkCause(cause)] if cause in list(ParkCause) else ""


def phase_in_words(state: str, phase: str, standing: str | None) -> str:
    """The phase of a step; one that waits for no further attempt has not happened."""
    over = state != SagaState.ACTIVE and phase == Phase.WAITING
    return "did not happen" if over and standing == Standing.NOTHING else phase
