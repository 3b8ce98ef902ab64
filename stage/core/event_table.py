"""One row an event: the attempt it starts or ends, its public members, its level, its wording.

The machine folds events; all other code that treats one type of event differently from another
reads the difference here. A member that a row does not name is private: it stays in the journal,
and no view, log line, span or page shows it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.states import ParkCause, SagaState


class Level(StrEnum):
    """The level of the log line of an event. The verb of an operator is at least a warning."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class EventRow(msgspec.Struct, frozen=True, kw_only=True):
    """The properties that all events of one type share.

    `public` is the allowlist of members. `wording` is the phrase that a timeline shows, behind the
    name of the attempt where there is one (core.describe). `starts` and `ends` name the kind of
    attempt that the event starts or ends, `end` how it ended: the label of the metrics. `failed`
    says that a span which ends with the event is an error: a refusal is a business no, an answer
    and no error. `outcome` is the state that the saga ends in. `final` says that no later event is
    expected to end an attempt of the saga. `parks` says that the saga waits for a person from here
    on. `progress` says that an attempt or a person brought the event about; an event that only asks
    is no progress (rule 15).
    """

    wording: str
    in_doubt: str = ""
    """The wording for an event whose effect may stand all the same; empty: the usual wording."""
    public: tuple[str, ...] = ()
    level: Level = Level.INFO
    starts: AttemptKind | None = None
    ends: AttemptKind | None = None
    end: str = ""
    failed: bool = False
    outcome: SagaState | None = None
    final: bool = False
    parks: bool = False
    progress: bool = False


def _start(wording: str, kind: AttemptKind, *public: str) -> EventRow:
    return EventRow(wording=wording, starts=kind, public=(*public, "span"))


def _end(
    wording: str,
    kind: AttemptKind,
    end: str,
    *public: str,
    level: Level = Level.INFO,
    final: bool = False,
    in_doubt: str = "",
) -> EventRow:
    """The end of an attempt. It is an error of its span where its line is more than info."""
    return EventRow(
        wording=wording,
        in_doubt=in_doubt,
        ends=kind,
        end=end,
        public=public,
        level=level,
        failed=level is not Level.INFO,
        final=final,
        progress=True,
    )


def _verb(wording: str, *public: str) -> EventRow:
    """An operator's verb: the entry is the audit row (rule 14)."""
    return EventRow(
        wording=wording, public=(*public, "actor", "why"), level=Level.WARNING, progress=True
    )


_EXECUTE, _PROBE = AttemptKind.EXECUTE, AttemptKind.PROBE
_COMPENSATE, _TELL = AttemptKind.COMPENSATE, AttemptKind.TELL
_WARNING, _ERROR = Level.WARNING, Level.ERROR

EVENTS: Final[dict[type[e.Event], EventRow]] = {
    # --- the saga ---
    e.Accepted: EventRow(
        wording="accepted",
        public=("deadline", "upstream", "deferred", "version", "generation"),
    ),
    e.Tombstoned: EventRow(
        wording="barred before it ran", public=("requested_by", "reason")
    ),
    e.Recovered: EventRow(
        wording="recovered",
        public=("epoch", "generation", "rested", "innocent"),
        level=_WARNING,
    ),
    e.AnswerDeferred: EventRow(wording="answered 202"),
    e.CompensationRequested: EventRow(
        wording="asked to compensate",
        public=("requested_by", "requester", "reason", "compensated", "generation"),
    ),
    e.TurnedBack: EventRow(wording="turns back", public=("step", "reason"), level=_WARNING),
    e.Completed: EventRow(wording="completed", outcome=SagaState.COMPLETED, final=True),
    e.Compensated: EventRow(wording="compensated", outcome=SagaState.COMPENSATED, final=True),
    e.FailedToCompensate: EventRow(
        wording="failed to compensate",
        public=("stands",),
        level=_ERROR,
        failed=True,
        outcome=SagaState.FAILED_TO_COMPENSATE,
        final=True,
        parks=True,
    ),
    e.Parked: EventRow(
        wording="parked", public=("cause", "reason"), level=_ERROR, failed=True, parks=True
    ),
    # --- execution ---
    e.StepStarted: _start("started", _EXECUTE, "step", "attempt", "key"),
    e.RequestPrepared: EventRow(
        wording="next request prepared",
        public=("step", "ordinal", "compensation"),
        level=Level.DEBUG,
    ),
    e.StepSucceeded: _end("succeeded", _EXECUTE, "succeeded", "step", "span"),
    e.StepRefused: _end(
        "refused", _EXECUTE, "refused",
        "step", "reason", "may_stand", "said", in_doubt="a no in doubt",
    ),
    e.StepTransient: _end(
        "did not happen, again later", _EXECUTE, "transient",
        "step", "reason", "retry_after", "may_stand", "may_come", "denied", "defect", "final",
        level=_WARNING,
    ),
    e.StepInDoubt: _end(
        "in doubt", _EXECUTE, "in_doubt",
        "step", "reason", "denied", "changed", "final", level=_WARNING,
    ),
    e.StepPending: _end(
        "still running there", _EXECUTE, "pending", "step", "reason", "retry_after"
    ),
    # --- probes ---
    e.ProbeStarted: _start("started", _PROBE, "step"),
    e.ProbeFound: _end("found", _PROBE, "found", "step"),
    e.ProbeNotThere: _end("not there", _PROBE, "not_there", "step"),
    e.ProbePending: _end(
        "still pending there", _PROBE, "pending", "step", "reason", "retry_after"
    ),
    e.ProbeRefused: _end("refused there", _PROBE, "refused", "step", "reason"),
    e.ProbeFailed: _end(
        "no answer", _PROBE, "failed",
        "step", "reason", "retry_after", "unserved", level=_WARNING,
    ),
    # --- calls that end later ---
    e.StillPending: EventRow(wording="still pending, nothing heard", public=("step",)),
    e.ApprovalAsked: EventRow(wording="asks for approval", public=("step",)),
    e.WebhookFound: EventRow(wording="landed, by webhook", public=("step",), progress=True),
    e.WebhookRefused: EventRow(
        wording="refused, by webhook", public=("step", "reason"), progress=True
    ),
    # --- compensation ---
    e.CompensationStarted: _start("started", _COMPENSATE, "step", "attempt", "key"),
    e.CompensationSucceeded: _end("undone", _COMPENSATE, "succeeded", "step"),
    e.CompensationDelayed: _end(
        "again later", _COMPENSATE, "delayed",
        "step", "reason", "retry_after", "not_understood", "denied", "certain", "may_come",
        level=_WARNING,
    ),
    e.CompensationRefused: _end(
        "cannot", _COMPENSATE, "refused",
        "step", "reason", "stands", "certain", level=_ERROR,
    ),
    # --- upstream ---
    e.TellStarted: _start("started", _TELL, "attempt"),
    e.TellDelivered: _end("taken over", _TELL, "delivered", "status", final=True),
    e.TellDelayed: _end(
        "again later", _TELL, "delayed",
        "reason", "retry_after", "not_understood", "denied", level=_WARNING,
    ),
    e.TellRefused: replace(
        _end(
            "cannot", _TELL, "refused",
            "reason", "cause", "upstream_knows", level=_ERROR, final=True,
        ),
        parks=True,
    ),
    # --- the verbs of an operator ---
    e.Retried: _verb("retry", "anew", "new_key", "step"),
    e.Settled: _verb("settle", "step", "landed"),
    e.Resolved: _verb("resolve", "step"),
    e.Abandoned: _verb("abandon", "step"),
    e.Forgotten: _verb("forget"),
    e.Approved: _verb("approve", "step"),
    e.Rejected: _verb("reject", "step"),
}  # fmt: skip
"""The row of every event; tests hold that none is missing."""

NAMED: Final[dict[str, EventRow]] = {
    str(kind.__struct_config__.tag): row for kind, row in EVENTS.items()
}
"""The same rows by the name that the journal, the log and the views use."""

PROGRESS: Final = frozenset(kind for kind, row in EVENTS.items() if row.progress)
"""The types that an attempt or a person brings about."""


def _defaults(kind: type[Any], public: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
    return tuple((name, fields[name]) for name in public)


_PUBLIC: Final = {kind: _defaults(kind, row.public) for kind, row in EVENTS.items()}


def wording_of(row: EventRow, *, may_stand: bool) -> str:
    """The phrase for an event of that row: a gateway's no is no refusal."""
    return (row.in_doubt if may_stand else "") or row.wording


def _concerns_nobody(event: e.Event) -> bool:
    """True of a no of an upstream that has asked by itself: its saga is not parked for it."""
    return isinstance(event, e.TellRefused) and event.upstream_knows


def level_of(event: e.Event) -> Level:
    """The level of the log line of one event: that of its row, unless nothing went wrong."""
    if isinstance(event, e.Recovered) and event.rested:
        return Level.DEBUG
    if _concerns_nobody(event):
        return Level.INFO
    return EVENTS[type(event)].level


def park_cause_of(event: e.Event) -> ParkCause | None:
    """Why the saga waits for a person from this event on; None when it does not."""
    if not EVENTS[type(event)].parks or _concerns_nobody(event):
        return None
    cause: ParkCause = getattr(event, "cause", ParkCause.FAILED_TO_COMPENSATE)
    return cause


_REASONED: Final = frozenset(kind for kind, row in EVENTS.items() if "reason" in row.public)


def reason_of(event: e.Event) -> str:
    """The reason of the event where its row makes it public, or an empty text."""
    return getattr(event, "reason", "") if type(event) in _REASONED else ""


def public_members(event: e.Event) -> dict[str, Any]:
    """The members that views, log lines and spans may show; those left at their default are not.

    Neither `at` nor the name of the event is among them: every room shows them in its own form.
    """
    shown = ((name, getattr(event, name), default) for name, default in _PUBLIC[type(event)])
    return {name: value for name, value, default in shown if value != default}
