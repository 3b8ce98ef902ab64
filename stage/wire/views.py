"""The bodies of `GET /sagas` and `GET /sagas/{id}`, for neighbours, consoles and operators."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError, untrusted_answer
from stage.wire.strict_json import decode_object

V = TypeVar("V", bound=msgspec.Struct)


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a saga. `key` is the idempotency key under which the effect can be looked up.

    `timeout_seconds` is the longest time of one attempt, and of the wait for an approval; None of a
    transaction. Behind a `pivot` the stage only goes forward.
    """

    name: str
    kind: str
    pivot: bool = False
    peer: str | None = None
    phase: str
    attempts: int = 0
    compensation_attempts: int = 0
    last_error: str | None = None
    key: str | None = None
    standing: str = ""
    timeout_seconds: float | None = None


class SagaView(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a saga, its steps and its next action. Instants are RFC 3339.

    `stands` names the effects that stand, of a saga that is over those that should not;
    `may_stand` those of which nobody knows. `standing` is one word for all of it: `nothing`,
    `stands`, `may_stand`, or `unknown` where the journal cannot be read here, or fits no version of
    the stage that is declared here. `told_upstream` says how far the word of a late failure has
    come. `version` is that of the stage which accepted it. `step` and `peer` are where it waits or
    is parked, None while it waits for nothing. `paused_until` says that an operator holds it there.
    `shows` are the members of its payload that the author lets operators see, and nobody else.
    """

    saga_id: str
    stage: str
    state: str
    outcome: Outcome
    parked: bool = False
    parked_reason: str | None = None
    parked_cause: str | None = None
    epoch: int = 0
    accepted_at: str
    updated_at: str
    deadline: str | None = None
    version: int = 1
    step: str | None = None
    peer: str | None = None
    paused_until: str | None = None
    trace_id: str | None = None
    next_action: str | None = None
    next_action_at: str | None = None
    stands: list[str] = []
    may_stand: list[str] = []
    standing: str | None = None
    steps: list[StepView] = []
    upstream: str | None = None
    told_upstream: str | None = None
    reason: str | None = None
    requested_by: str | None = None
    shows: dict[str, str | int | float | bool] = {}


class VerbView(msgspec.Struct, frozen=True, kw_only=True):
    """A verb, and why it is not allowed now: None where it is. `steps` are those it may name.

    A `retry` has the steps whose undo may be made anew, and names one with `anew` alone.
    `shown` is what the author of the stage shows a person for an approval.
    """

    verb: str
    why_not: str | None = None
    steps: list[str] = []
    shown: Any = None


class VerbsView(msgspec.Struct, frozen=True, kw_only=True):
    """The verbs that the caller may do to a saga now, and why not the others."""

    saga_id: str
    state: str
    verbs: list[VerbView]


class JournalView(msgspec.Struct, frozen=True, kw_only=True):
    """The journal of a saga. Each entry has `seq`, `at`, `event`, and what the event holds.

    `next` is the `after` to ask for to get the next page; None where these are the last.
    """

    saga_id: str
    entries: list[dict[str, Any]]
    next: int | None = None


class SagaPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of a list. `next` is what to ask for to get the next one; None at the end."""

    sagas: list[SagaView]
    next: str | None = None


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas that turned back for one reason; without a step they were asked to."""

    step: str | None = None
    reason: str
    sagas: int


class HourView(msgspec.Struct, frozen=True, kw_only=True):
    """The sagas of this replica that ended in the last `seconds`, or since it was started.

    `success_ratio` is the share of `completed` in all ends, None where there was none: a saga that
    is undone after it completed has ended twice. `refusals` are the most frequent reasons for which
    sagas turned back.
    """

    seconds: float
    completed: int = 0
    compensated: int = 0
    failed_to_compensate: int = 0
    success_ratio: float | None = None
    refusals: list[RefusalView] = []


class PlacesView(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of this replica, and how much of it is taken: `requests`, or `sagas`."""

    what: str
    limit: int
    in_use: int


class ApprovalsView(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas that wait for a person's yes or no at one step; silence is a no at `first_ends_at`.

    That is None where this stage no longer declares the version of those sagas.
    """

    step: str
    sagas: int
    oldest_asked_at: str
    first_ends_at: str | None = None


class NowView(msgspec.Struct, frozen=True, kw_only=True):
    """A stage at this instant. `live` and `ready` are of the replica that answers.

    `in_doubt` are the steps in doubt of its live sagas, and the sagas that are parked for a doubt.
    `sagas` are those of the whole stage by state, `parked` those that wait for a person, by cause,
    `approvals` those that wait for one to approve them: they are not parked. The instants are None
    where nothing is under way, due, or being undone. `left_to_newer` are sagas of a newer release,
    `lost` those that neighbours know and the database does not. A database that was put back from
    a backup of `restored_as_of` `awaits_release` until its neighbours were asked. `lately` and
    `places` are of the replica that answers too; `replicas` share the database, and
    `database_bytes` are its sizes on its disk, by part.
    """

    stage: str
    release: str
    at: str
    ready: bool
    clock_jump_seconds: float
    live: int
    in_doubt: int
    sagas: dict[str, int]
    parked: dict[str, int]
    approvals: list[ApprovalsView] = []
    oldest_accepted_at: str | None = None
    longest_due_at: str | None = None
    oldest_compensation_at: str | None = None
    left_to_newer: int = 0
    lost: int = 0
    restored_as_of: str | None = None
    awaits_release: bool = False
    lately: HourView | None = None
    places: list[PlacesView] = []
    replicas: int = 1
    database_bytes: dict[str, int] = {}


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """Sagas that wait at one place, or are parked there for one cause.

    `direction` is `forward`, `backward`, or `tell` where upstream is to be notified. An `approval`
    waits for a person.
    """

    parked_cause: str | None = None
    approval: bool = False
    step: str | None = None
    peer: str | None = None
    state: str
    direction: str
    sagas: int
    oldest_at: str
    oldest_seconds: float


class GroupsView(msgspec.Struct, frozen=True, kw_only=True):
    """All sagas that wait or are parked, counted."""

    groups: list[GroupView]


class ActView(msgspec.Struct, frozen=True, kw_only=True):
    """One act of a person: the saga or the peer, the reason, and how it stood before and after."""

    number: int
    at: str
    actor: str
    act: str
    target: str
    reason: str
    before: str
    after: str


class ActPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the audit, the newest first. `next` is the `before` of the page behind it."""

    acts: list[ActView]
    next: int | None = None


class PeerView(msgspec.Struct, frozen=True, kw_only=True):
    """A peer by kind and name, as the replica that answers sees it, and what waits for it.

    `breaker_open` says that nothing forward leaves for a moment; `waiting` are the sagas of the
    whole stage that wait there or are parked there, `paused_until` the end of its last pause.
    """

    peer: str
    breaker_open: bool = False
    under_way: int = 0
    queued: int = 0
    places: int | None = None
    places_max: int | None = None
    rate_per_second: float | None = None
    last_answer_at: str | None = None
    last_failure_at: str | None = None
    last_failure: str | None = None
    paused_until: str | None = None
    waiting: list[GroupView] = []


class PeersView(msgspec.Struct, frozen=True, kw_only=True):
    """Every peer of the steps, and every upstream that was spoken to."""

    peers: list[PeerView]


class PauseView(msgspec.Struct, frozen=True, kw_only=True):
    """One pause of a peer by kind and name, or `intake`. Without a direction both."""

    target: str
    direction: str | None = None
    at: str
    until: str
    actor: str
    reason: str


class PausesView(msgspec.Struct, frozen=True, kw_only=True):
    """The pauses in force."""

    pauses: list[PauseView]


class SweepSagaView(msgspec.Struct, frozen=True, kw_only=True):
    """A saga to which a verb could not be done, with the reason."""

    saga_id: str
    detail: str


class SweepView(msgspec.Struct, frozen=True, kw_only=True):
    """A verb that is done to many sagas, with its progress.

    `first` are the first sagas of a dry run, which has no number. `left` are sagas that a purge is
    for too, and that it does not take at once; they are counted to 20,000, when it begins.
    """

    number: int | None = None
    at: str
    actor: str
    verb: str
    reason: str
    step: str | None = None
    where: str
    rate_per_second: float
    state: str
    sagas: int
    pending: int
    done: int
    refused: int
    left: int | None = None
    first: list[str] = []
    first_refused: list[SweepSagaView] = []


class SweepsView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest sweeps first."""

    sweeps: list[SweepView]


class WordView(msgspec.Struct, frozen=True, kw_only=True):
    """The word of one neighbour on a saga."""

    neighbour: str
    said: str


class MissingView(msgspec.Struct, frozen=True, kw_only=True):
    """A saga that neighbours list and the database lacks.

    `asked_by` has asked to compensate it while it was unknown. Without `may_stand` upstream has the
    word of this stage that nothing of it stands.
    """

    saga_id: str
    said: list[WordView] = []
    asked_by: str | None = None
    may_stand: bool = True


class DifferenceView(msgspec.Struct, frozen=True, kw_only=True):
    """A saga in the database, and a neighbour that says something else of it."""

    saga_id: str
    state: str
    neighbour: str
    said: str


class ReconcileView(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of the neighbours for the sagas since an instant, against the database.

    `asked` has how many sagas each listed, `dropped` how many of these were dropped here for their
    age, `unanswered` why one could not be asked, `unnamed` how many sagas were opened by each name
    that is no configured neighbour. `missing` counts the lost
    sagas, and `sagas` has the first of them. `adopted` are those that were taken over now; `sweep`
    compensates them. `too_late` says that `since` is later than the backup. Then, and in a dry run,
    `counts_for_release` is False: `stage db released` does not count the answers.
    `called_otherwise` says why missing sagas may have made their calls under other names than those
    of this release.
    """

    since: str
    asked: dict[str, int]
    unanswered: dict[str, str]
    unnamed: dict[str, int]
    missing: int
    sagas: list[MissingView]
    differences: list[DifferenceView]
    dropped: dict[str, int] = {}
    adopted: int = 0
    sweep: int | None = None
    counts_for_release: bool = True
    too_late: bool = False
    called_otherwise: str = ""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The body of 202, and of 200 for a saga that is compensated."""

    saga_id: str
    outcome: Outcome


def encode_view(view: msgspec.Struct) -> bytes:
    """The body that shows a view."""
    return msgspec.json.encode(view)


def decode_view(body: bytes, kind: type[V], limits: Limits = DEFAULT_LIMITS) -> V:
    """The view in a neighbour's answer; members that are not named here are left alone.

    Raises WireError (502, outcome unknown) when it is not one.
    """
    try:
        return msgspec.convert(decode_object(body, limits), kind)
    except (WireError, msgspec.ValidationError) as error:
        detail = error.detail if isinstance(error, WireError) else str(error)
        raise untrusted_answer(detail) from None
