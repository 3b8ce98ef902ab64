"""The states of a saga, the phases of its steps, and the reasons why it waits for a person."""

from __future__ import annotations

from enum import StrEnum


class SagaState(StrEnum):
    """Where the saga stands at this stage. `parked` is a flag beside it, not a state."""

    ACTIVE = "active"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED_TO_COMPENSATE = "failed_to_compensate"


ENDED = frozenset({SagaState.COMPLETED, SagaState.COMPENSATED, SagaState.FAILED_TO_COMPENSATE})


class ParkCause(StrEnum):
    """Why a saga waits for a person. Rooms decide by this; the text beside it is for people."""

    IN_DOUBT = "in_doubt"
    """A call is in doubt, and its API can neither repeat it safely nor be asked (rule 5)."""
    PIVOT_IN_DOUBT = "pivot_in_doubt"
    """Nobody knows whether the pivot has happened, so that neither way is open (rule 20)."""
    BEHIND_PIVOT = "behind_pivot"
    """A step behind the pivot failed for good, and there is no way back (rule 20)."""
    OUTPUT_FAILED = "output_failed"
    """Behind the pivot the author's function that makes the output raised."""
    LOST_RUNS = "lost_runs"
    """Too many runs in a row were lost without progress (rule 15)."""
    KILLS_PROCESS = "kills_process"
    """Process after process died while the author's code for it ran (rule 35)."""
    FAILED_TO_COMPENSATE = "failed_to_compensate"
    """Everything was tried, and effects still stand (rule 12)."""
    LANDED_LATE = "landed_late"
    """An API said that a call landed when all that was kept to undo it was dropped."""
    UPSTREAM_CANNOT = "upstream_cannot"
    """Upstream answered that it cannot compensate (rule 22)."""
    REQUEST_CHANGED = "request_changed"
    """A call is in doubt, and today's code would repeat it as another request (rule 31)."""
    NOT_UNDERSTOOD = "not_understood"
    """A neighbour was asked to compensate and never answered in its own word (protocol 3.4)."""
    UPSTREAM_AWAY = "upstream_away"
    """Upstream could not be notified of a late failure while patience lasted (rule 28)."""
    MISFIT = "misfit"
    """No version that is declared here fits what its journal binds (rule 32)."""
    LOST = "lost"
    """The database lost it; it was adopted from the words of its neighbours (rule 33)."""
    JOURNAL_MISMATCH = "journal_mismatch"
    """The journal holds what cannot follow, whatever the plan."""
    DEFECT = "defect"
    """Code of ours or of the author raised an error that no rule covers."""


PARKED_IN_DOUBT = frozenset({ParkCause.IN_DOUBT, ParkCause.PIVOT_IN_DOUBT, ParkCause.LOST})
"""The causes of which the doubt about a step is one."""


class StepKind(StrEnum):
    """The kind of work of a step; calls, effects and forwards leave the process."""

    TRANSACTION = "transaction"
    CALL = "call"
    EFFECT = "effect"
    """Any code of the author that acts outside: its requests are not in the journal."""
    APPROVAL = "approval"
    """Waits for a person's yes or no."""
    FORWARD = "forward"


EXTERNAL_KINDS = frozenset({StepKind.CALL, StepKind.EFFECT})
"""The kinds whose peer is an external system: it may be probed, and may tell of an end later."""
LOCAL_KINDS = frozenset({StepKind.TRANSACTION, StepKind.APPROVAL})
"""The kinds that leave nothing outside of the database; their start is not journaled apart."""


class Phase(StrEnum):
    """Where one step stands."""

    STARTED = "started"
    """An attempt is in flight."""
    WAITING = "waiting"
    """The last attempt did not happen, or is pending downstream; the next is due later."""
    IN_DOUBT = "in_doubt"
    """Nobody knows whether the last attempt happened."""
    PENDING = "pending"
    """The external API has taken the call on, and how it ends becomes known later."""
    AWAITING_APPROVAL = "awaiting_approval"
    """A person was asked for a yes or a no."""
    PROBING = "probing"
    """A probe is in flight."""
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    COMPENSATING = "compensating"
    """An attempt to undo is in flight."""
    COMPENSATION_WAITING = "compensation_waiting"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    """It cannot be undone by itself; a person has to."""


IN_FLIGHT = frozenset({Phase.STARTED, Phase.PROBING, Phase.COMPENSATING})


class Tell(StrEnum):
    """Whether upstream has to be notified that this saga failed after it had been answered yes."""

    NO = "no"
    DUE = "due"
    IN_FLIGHT = "in_flight"
    DELIVERED = "delivered"
    REFUSED = "refused"
