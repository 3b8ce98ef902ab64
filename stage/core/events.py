"""The entries of the journal: what happened to a saga, in the past tense.

`at` is always in seconds since the epoch, UTC. `span` is the span id of an attempt (16 hex
digits, or empty when nothing is traced), stored before the attempt leaves so that recovery can
link to it (rule 23).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, get_args

import msgspec

from stage.core.act_key import ActKey
from stage.core.errors import NewerJournal
from stage.core.requester import Requester
from stage.core.states import ParkCause, StepKind


class Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A request to an external API as it leaves and as it is repeated: the same bytes (rule 5)."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Binding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The nature of a step when it began: its first event holds it, for good (rule 32).

    A transaction has no `peer`. The key of a call stands in the event itself.
    """

    kind: StepKind = StepKind.TRANSACTION
    peer: str = ""
    compensatable: bool = False
    pivot: bool = False


class _Event(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True, gc=False
):
    at: float


class Accepted(_Event, frozen=True, kw_only=True, tag="accepted"):
    """The saga was durably accepted. `upstream` is the neighbour to notify of a late failure.

    `baggage` is the part of the W3C baggage of the request that is passed on. `version` is the
    version of the stage, which the saga keeps; `plan_hash` is the hash of its plan (core.bindings);
    `generation` is the generation of the database, which grows with each restore (rule 33).
    """

    deadline: float | None = None
    upstream: str = ""
    deferred: bool = False
    baggage: str = ""
    version: int = 1
    plan_hash: str = ""
    generation: int = 1


class Tombstoned(_Event, frozen=True, kw_only=True, tag="tombstoned"):
    """Compensation came before the saga itself, or the saga after its deadline: it never runs here
    (rule 9, decision 0041)."""

    requested_by: str = ""
    reason: str = ""


class Recovered(_Event, frozen=True, kw_only=True, tag="recovered"):
    """A new run took the saga over. Attempts that were in flight are in doubt from here on.

    `rested` says that no run was lost: the saga was at rest, and something was asked of it or its
    next action came due. `generation` is that of the database in which it was taken over.
    """

    epoch: int
    generation: int = 1
    rested: bool = False
    innocent: bool = False
    """True when the process before died in the code of another saga (rule 35)."""


class AnswerDeferred(_Event, frozen=True, kw_only=True, tag="answer_deferred"):
    """The caller was answered 202: it must be notified when the saga fails."""


class CompensationRequested(_Event, frozen=True, kw_only=True, tag="compensation_requested"):
    """A neighbour or an operator asked to undo the saga.

    `compensated` is the word of a downstream that nothing stands at it or behind it. `requester` is
    the relation of the asker to the saga (rule 36). `generation` is the generation of the database.
    """

    requested_by: str = ""
    requester: Requester = Requester.CLAIMED
    reason: str = ""
    compensated: bool = False
    generation: int = 1


class StepStarted(_Event, frozen=True, kw_only=True, tag="step_started"):
    """The intent of an attempt, durable before it leaves (rules 1 and 15)."""

    step: str
    attempt: int
    key: str = ""
    span: str = ""
    request: Request | None = None
    bound: Binding | None = None


class RequestPrepared(_Event, frozen=True, kw_only=True, tag="request_prepared"):
    """The intent of a further request within the same attempt; `ordinal` counts from 1."""

    step: str
    ordinal: int
    request: Request
    compensation: bool = False


class StepSucceeded(_Event, frozen=True, kw_only=True, tag="step_succeeded"):
    """The step's effect stands and its result is known (JSON).

    `span` is set for a transaction alone, whose start is not journaled apart.
    """

    step: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    span: str = ""
    bound: Binding | None = None


class StepRefused(_Event, frozen=True, kw_only=True, tag="step_refused"):
    """A business no: nothing happened, unless an earlier request of the attempt `may_stand`.

    `said`: the reason is the word of the author or of downstream, which neighbours may read.
    """

    step: str
    reason: str = ""
    may_stand: bool = False
    said: bool = False
    bound: Binding | None = None


class StepTransient(_Event, frozen=True, kw_only=True, tag="step_transient"):
    """The attempt certainly did not happen; it may be tried again.

    `denied`, here and in the events below: the answer was 401 or 403, whether from the peer or from
    a gateway, or the peer refused our certificate. `defect`: the author's code failed before it
    prepared a request (rule 4). `final`, here and below: the author declared that such an attempt
    is never repeated. `may_come`: downstream said no for now, and may accept a copy of the request
    that is still on its way; or nobody vouches for the no of an API, which may have acted all the
    same (decision 0087).
    """

    step: str
    reason: str = ""
    retry_after: float | None = None
    may_stand: bool = False
    may_come: bool = False
    denied: bool = False
    defect: bool = False
    bound: Binding | None = None
    final: bool = False


class StepInDoubt(_Event, frozen=True, kw_only=True, tag="step_in_doubt"):
    """Nobody knows whether the attempt happened; it is to be settled (rule 5).

    `changed` says that today's code makes another request than the stored one, so that nothing
    was sent this time (rule 31).
    """

    step: str
    reason: str = ""
    changed: bool = False
    denied: bool = False
    final: bool = False


class StepPending(_Event, frozen=True, kw_only=True, tag="step_pending"):
    """Durably taken on there, and still under way; asked again later.

    Downstream answered 202, or the author's function of a call said that it is pending, with the
    `reason` in its words.
    """

    step: str
    reason: str = ""
    retry_after: float | None = None


class ProbeStarted(_Event, frozen=True, kw_only=True, tag="probe_started"):
    """A look-up of an in-doubt step by its key is about to leave."""

    step: str
    span: str = ""


class ProbeFound(_Event, frozen=True, kw_only=True, tag="probe_found"):
    """The effect stands; the doubt is settled as succeeded."""

    step: str
    result: msgspec.Raw = msgspec.Raw(b"null")


class ProbeNotThere(_Event, frozen=True, kw_only=True, tag="probe_not_there"):
    """The API does not know the key; believed only when said twice, apart."""

    step: str


class ProbePending(_Event, frozen=True, kw_only=True, tag="probe_pending"):
    """The API knows the key, and how the call ends is not known there yet."""

    step: str
    reason: str = ""
    retry_after: float | None = None


class ProbeRefused(_Event, frozen=True, kw_only=True, tag="probe_refused"):
    """The API knows the key, and the call ended with a business no there: nothing happened."""

    step: str
    reason: str = ""


class ProbeFailed(_Event, frozen=True, kw_only=True, tag="probe_failed"):
    """The probe got no usable answer.

    `unserved`: the answer was that of a server which does not serve such a probe.
    """

    step: str
    reason: str = ""
    retry_after: float | None = None
    unserved: bool = False


class StillPending(_Event, frozen=True, kw_only=True, tag="still_pending"):
    """Nothing was heard of a pending call without a probe, or of an approval that was asked for.

    The wait goes on, or is over.
    """

    step: str


class ApprovalAsked(_Event, frozen=True, kw_only=True, tag="approval_asked"):
    """A person is asked for a yes or a no; `shown` has the author's words for it."""

    step: str
    shown: msgspec.Raw = msgspec.Raw(b"null")
    bound: Binding | None = None


class WebhookFound(_Event, frozen=True, kw_only=True, tag="webhook_found"):
    """The API said by a webhook that the call landed; `result` as its function returns it.

    It may come before the answer of the call: it is kept until the attempt in flight has ended.
    """

    step: str
    result: msgspec.Raw = msgspec.Raw(b"null")


class WebhookRefused(_Event, frozen=True, kw_only=True, tag="webhook_refused"):
    """The API said by a webhook that the call ended with a business no: nothing happened."""

    step: str
    reason: str = ""


class TurnedBack(_Event, frozen=True, kw_only=True, tag="turned_back"):
    """The saga goes backward from here: every effect that may stand is compensated."""

    reason: str = ""
    step: str = ""


class CompensationStarted(_Event, frozen=True, kw_only=True, tag="compensation_started"):
    """The intent of undoing one step, durable before it leaves."""

    step: str
    attempt: int
    key: str = ""
    span: str = ""
    request: Request | None = None


class CompensationSucceeded(_Event, frozen=True, kw_only=True, tag="compensation_succeeded"):
    """Nothing of the step stands any more."""

    step: str


class CompensationDelayed(_Event, frozen=True, kw_only=True, tag="compensation_delayed"):
    """The attempt to undo did not end well; it is repeated.

    `not_understood`: the answer was not in downstream's own word. `certain`: the attempt certainly
    had no effect, so that it does not count (rule 28). `may_come`: nobody vouches for that, as in
    StepTransient, so that the same bytes are sent again.
    """

    step: str
    reason: str = ""
    retry_after: float | None = None
    not_understood: bool = False
    denied: bool = False
    certain: bool = False
    may_come: bool = False


class CompensationRefused(_Event, frozen=True, kw_only=True, tag="compensation_refused"):
    """The step cannot be undone: failed for good until an operator settles it (rule 14).

    `certain`: the attempt to undo had no effect.
    """

    step: str
    reason: str = ""
    stands: tuple[str, ...] = ()
    certain: bool = False


class Completed(_Event, frozen=True, kw_only=True, tag="completed"):
    """Done here and downstream."""


class Compensated(_Event, frozen=True, kw_only=True, tag="compensated"):
    """Nothing of the saga stands here or downstream."""


class FailedToCompensate(_Event, frozen=True, kw_only=True, tag="failed_to_compensate"):
    """Everything was tried; `stands` lists the steps whose effects remain."""

    stands: tuple[str, ...]


class TellStarted(_Event, frozen=True, kw_only=True, tag="tell_started"):
    """Upstream is about to be asked to compensate: the saga failed after upstream got a yes."""

    attempt: int
    span: str = ""


class TellDelivered(_Event, frozen=True, kw_only=True, tag="tell_delivered"):
    """Upstream answered: it has taken over."""

    status: int = 200


class TellDelayed(_Event, frozen=True, kw_only=True, tag="tell_delayed"):
    """Upstream did not answer, or was `not_understood`; it is asked again."""

    reason: str = ""
    retry_after: float | None = None
    not_understood: bool = False
    denied: bool = False


class TellRefused(_Event, frozen=True, kw_only=True, tag="tell_refused"):
    """Upstream cannot compensate, never answered in its own word, or was away: a person looks.

    Nobody has to where `upstream_knows`, since it had asked to compensate by itself before.
    """

    reason: str = ""
    cause: ParkCause = ParkCause.UPSTREAM_CANNOT
    upstream_knows: bool = False


class Parked(_Event, frozen=True, kw_only=True, tag="parked"):
    """The saga waits for a person. `cause` is for code, `reason` for people."""

    cause: ParkCause
    reason: str


class _Verb(_Event, frozen=True, kw_only=True):
    """An act of an operator. The entry in the journal is the audit row (rule 14)."""

    actor: str
    why: str
    act_key: ActKey | None = None


class Retried(_Verb, frozen=True, kw_only=True, tag="retried"):
    """Steps that wait, are parked or failed for good are tried now; used attempts are forgiven.

    `anew` has the requests of undos made again by today's code, `new_key` under another key too;
    an empty `step` means those of all undos that wait or failed (rule 31).
    """

    anew: bool = False
    new_key: bool = False
    step: str = ""


class Settled(_Verb, frozen=True, kw_only=True, tag="settled"):
    """The doubt about a step was settled by a person: it landed, or it did not."""

    step: str
    landed: bool
    result: msgspec.Raw = msgspec.Raw(b"null")


class Resolved(_Verb, frozen=True, kw_only=True, tag="resolved"):
    """A person undid by hand what this stage could not; an empty `step` means everything."""

    step: str = ""


class Abandoned(_Verb, frozen=True, kw_only=True, tag="abandoned"):
    """A person gave up undoing a step: what stands of it is reported; an empty `step` means all."""

    step: str = ""


class Forgotten(_Verb, frozen=True, kw_only=True, tag="forgotten"):
    """A person gave the saga up: its effects stay, nothing more is done, a tombstone remains."""


class Approved(_Verb, frozen=True, kw_only=True, tag="approved"):
    """A person said yes to an approval, after having seen what its author shows for it."""

    step: str


class Rejected(_Verb, frozen=True, kw_only=True, tag="rejected"):
    """A person said no to an approval: the saga turns back."""

    step: str


Verb = Retried | Settled | Resolved | Abandoned | Forgotten | Approved | Rejected
"""The acts that an operator can do."""

Webhook = WebhookFound | WebhookRefused
"""The end of a call as its API tells it of its own accord."""

WaitEnd = WebhookFound | WebhookRefused | Settled | Approved | Rejected
"""The events that say from outside how a step ended which may be waited for. Each has the instant
of its entry: the deadline stands still until it counts (decision 0075)."""

AttemptEnd = (
    StepSucceeded | StepRefused | StepTransient | StepInDoubt | StepPending
    | ProbeFound | ProbeNotThere | ProbePending | ProbeRefused | ProbeFailed
    | CompensationSucceeded | CompensationDelayed | CompensationRefused
    | TellDelivered | TellDelayed | TellRefused
)  # fmt: skip
"""The events that end an attempt."""

Event = (
    Accepted | Tombstoned | Recovered | AnswerDeferred | CompensationRequested
    | StepStarted | RequestPrepared | ProbeStarted | CompensationStarted | TellStarted
    | StepSucceeded | StepRefused | StepTransient | StepInDoubt | StepPending
    | ProbeFound | ProbeNotThere | ProbePending | ProbeRefused | ProbeFailed
    | StillPending | ApprovalAsked | WebhookFound | WebhookRefused
    | CompensationSucceeded | CompensationDelayed | CompensationRefused
    | TellDelivered | TellDelayed | TellRefused
    | TurnedBack | Completed | Compensated | FailedToCompensate | Parked
    | Retried | Settled | Resolved | Abandoned | Forgotten | Approved | Rejected
)  # fmt: skip

NAMES: Final[Mapping[type, str]] = {
    kind: str(kind.__struct_config__.tag) for kind in get_args(Event)
}
"""The name of each kind of event in the journal, such as `step_started`."""
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


class _Tagged(msgspec.Struct):
    """The least that an event of any release has."""

    event: str


_tagged = msgspec.json.Decoder(_Tagged)


encode_event: Final[Callable[[Event], bytes]] = _encoder.encode
"""The journal's bytes of an event."""


def decode_event(body: bytes) -> Event:
    """The event of a journal entry.

    Raises NewerJournal for an event that this release does not know, and msgspec.MsgspecError for
    bytes that are no event.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        known = _tagged.decode(body)
        raise NewerJournal(
            f"the journal holds {known.event!r} as this release does not know it ({error}): the"
            " release that wrote it goes on with the saga"
        ) from error


def name_of(event: Event) -> str:
    """The event's name in the journal, such as `step_started`."""
    return NAMES[type(event)]
