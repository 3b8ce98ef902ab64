"""Requests to compensate, the answer of a stage that is done, and what an answer means.

The tables are those of the protocol, sections 3.3 and 3.4: an answer counts only when the neighbour
itself states the outcome in its body, and code and outcome agree.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from stage.wire.envelope import format_instant, parse_instant, refuse_unknown
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError, untrusted_answer
from stage.wire.strict_json import decode_object, encode_object
from stage.wire.text import sendable

_EXECUTED_MEMBERS = frozenset({"saga_id", "outcome", "data"})
UNKNOWN_REQUESTER = "unknown"
"""The requester of a request that names none."""
_COMPENSATE_MEMBERS = frozenset({"requested_by", "reason", "outcome", "first_sent_at"})


class ReplyKind(StrEnum):
    """The meaning of an answer to `POST /sagas` for the caller."""

    EXECUTED = "executed"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The saga is over there, and nothing of it stands."""
    REJECTED = "rejected"
    """This request for this saga was rejected before any effect; an earlier one may have landed."""
    GONE = "gone"
    NOT_NOW = "not_now"
    """Nothing happened for this answer; the same request, or a copy of it, may be accepted."""
    NOT_ALLOWED = "not_allowed"
    """The key is wrong or was rotated: as NOT_NOW, and the operator is notified. Another replica
    may know the key, and have the saga."""
    TOO_LATE = "too_late"
    IN_DOUBT = "in_doubt"
    """A no that is not in the neighbour's own word: not repeated, compensated there first."""
    UNKNOWN = "unknown"


class CompensateReplyKind(StrEnum):
    """The meaning of an answer to `POST /sagas/{id}/compensate` for the caller."""

    COMPENSATED = "compensated"
    ACCEPTED = "accepted"
    CANNOT = "cannot"
    NOT_NOW = "not_now"
    AWAY = "away"
    """A gateway answers for a neighbour that it does not reach, or that we may not reach."""
    NOT_UNDERSTOOD = "not_understood"
    """Something answers that is not the neighbour: a login page, a wrong address, another saga."""


REPLIES: dict[tuple[int, Outcome], ReplyKind] = {
    (200, Outcome.EXECUTED): ReplyKind.EXECUTED,
    (202, Outcome.IN_PROGRESS): ReplyKind.ACCEPTED,
    (400, Outcome.NOT_EXECUTED): ReplyKind.REJECTED,
    (401, Outcome.NOT_EXECUTED): ReplyKind.NOT_ALLOWED,
    (403, Outcome.NOT_EXECUTED): ReplyKind.NOT_ALLOWED,
    (409, Outcome.COMPENSATED): ReplyKind.REFUSED,
    (409, Outcome.NOT_EXECUTED): ReplyKind.REFUSED,
    (410, Outcome.COMPENSATED): ReplyKind.GONE,
    (410, Outcome.NOT_EXECUTED): ReplyKind.GONE,  # a tombstone: it never ran
    (413, Outcome.NOT_EXECUTED): ReplyKind.REJECTED,
    (415, Outcome.NOT_EXECUTED): ReplyKind.REJECTED,
    (422, Outcome.NOT_EXECUTED): ReplyKind.REJECTED,
    (429, Outcome.NOT_EXECUTED): ReplyKind.NOT_NOW,
    (503, Outcome.NOT_EXECUTED): ReplyKind.NOT_NOW,
    (504, Outcome.NOT_EXECUTED): ReplyKind.TOO_LATE,
}
"""The answers to `POST /sagas` that are believed: code and outcome agree."""
IN_DOUBT_CODES = frozenset({400, 409, 410, 413, 415, 422})
"""Codes that say no. A gateway says them as well, so without the outcome they are in doubt."""
NOT_ALLOWED_CODES = frozenset({401, 403})
"""The operator is notified of these at once, whoever gave them."""

COMPENSATE_REPLIES: dict[tuple[int, Outcome], CompensateReplyKind] = {
    (200, Outcome.COMPENSATED): CompensateReplyKind.COMPENSATED,
    (200, Outcome.NOT_EXECUTED): CompensateReplyKind.COMPENSATED,
    (202, Outcome.IN_PROGRESS): CompensateReplyKind.ACCEPTED,
    (409, Outcome.EXECUTED): CompensateReplyKind.CANNOT,
    (409, Outcome.UNKNOWN): CompensateReplyKind.CANNOT,
    (410, Outcome.COMPENSATED): CompensateReplyKind.COMPENSATED,
    (410, Outcome.NOT_EXECUTED): CompensateReplyKind.COMPENSATED,
    (410, Outcome.UNKNOWN): CompensateReplyKind.COMPENSATED,  # an operator there took it over
    **{
        (code, outcome): CompensateReplyKind.NOT_NOW
        for code in (401, 403, 429, 500, 503)
        for outcome in Outcome
    },
}
"""The answers to `compensate` that are believed."""
AWAY_CODES = frozenset({401, 403, 408, 425, 429})
"""Beside the 5xx: a gateway gives them for a neighbour that is away, slow, or locked to us."""

NOT_FOUND = 404
UNSERVED_CODES = frozenset({NOT_FOUND, 405, 501})
"""Without an outcome: of a neighbour that shows no sagas, or of a gateway in its place."""
SAGA_VIEW_REPLIES: dict[int, dict[str, ReplyKind]] = {
    200: {
        Outcome.EXECUTED: ReplyKind.EXECUTED,
        Outcome.IN_PROGRESS: ReplyKind.ACCEPTED,
        Outcome.NOT_EXECUTED: ReplyKind.GONE,
        Outcome.COMPENSATED: ReplyKind.GONE,
        Outcome.UNKNOWN: ReplyKind.GONE,  # not undone, or forgotten: compensate says which
    },
    404: {Outcome.NOT_EXECUTED: ReplyKind.GONE},
    405: {Outcome.NOT_EXECUTED: ReplyKind.GONE, Outcome.UNKNOWN: ReplyKind.GONE},
    501: {Outcome.NOT_EXECUTED: ReplyKind.GONE, Outcome.UNKNOWN: ReplyKind.GONE},
}


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """Done here and downstream. `data` holds what was added, by the name of the stage."""

    saga_id: str
    outcome: Outcome = Outcome.EXECUTED
    data: dict[str, Any]


class CompensateRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The asker and the reason, which are shown and stored and decide nothing.

    `outcome` is the asker's own word: COMPENSATED says that nothing stands at it or behind it, so
    that it need not be asked in turn. None says nothing. `first_sent_at` is when the saga was first
    sent to the neighbour, or earlier, in seconds since the epoch: it shows one with another
    database that it must have seen the saga.
    """

    requested_by: str = UNKNOWN_REQUESTER
    reason: str = ""
    outcome: Outcome | None = None
    first_sent_at: float | None = None


def own_word(body: bytes, saga_id: str) -> Outcome | None:
    """The outcome that the neighbour itself states of this saga, or None.

    A gateway, a login page and an answer about another saga state none (protocol 3.3).
    """
    try:
        members = decode_object(body, DEFAULT_LIMITS)
    except WireError:
        return None
    if members.get("saga_id", saga_id) != saga_id:
        return None
    outcome = members.get("outcome")
    try:
        return Outcome(outcome) if type(outcome) is str else None
    except ValueError:
        return None


def names_saga(body: bytes, saga_id: str) -> bool:
    """Whether the answer says that it is about this saga."""
    try:
        return decode_object(body, DEFAULT_LIMITS).get("saga_id") == saga_id
    except WireError:
        return False


def kind_of_reply(status: int, body: bytes, saga_id: str) -> ReplyKind:
    """The meaning of an answer to `POST /sagas`. Only the neighbour's own word is believed.

    Its no to a request that it could not read is no word on the saga, unless it names that: the one
    that could read it may have it (decision 0093).
    """
    outcome = own_word(body, saga_id)
    kind = None if outcome is None else REPLIES.get((status, outcome))
    if kind is ReplyKind.REJECTED and not names_saga(body, saga_id):
        kind = None
    if kind is not None:
        return kind
    return ReplyKind.IN_DOUBT if status in IN_DOUBT_CODES else ReplyKind.UNKNOWN


def kind_of_compensate_reply(status: int, body: bytes, saga_id: str) -> CompensateReplyKind:
    """The meaning of an answer to `compensate`. Only the neighbour's own word is believed."""
    outcome = own_word(body, saga_id)
    if outcome is not None and (status, outcome) in COMPENSATE_REPLIES:
        return COMPENSATE_REPLIES[status, outcome]
    away = status >= 500 or status in AWAY_CODES
    return CompensateReplyKind.AWAY if away else CompensateReplyKind.NOT_UNDERSTOOD


def kind_of_saga_view(status: int, body: bytes, saga_id: str) -> ReplyKind:
    """The meaning of an answer to `GET /sagas/{id}`: EXECUTED, ACCEPTED (it runs), GONE or UNKNOWN.

    GONE is the neighbour's own word that it is not done there, or that it shows no sagas. An error
    that does not speak of the saga is UNKNOWN: something between us may have answered.
    """
    if status not in SAGA_VIEW_REPLIES:
        return ReplyKind.UNKNOWN
    outcome = own_word(body, saga_id)
    if outcome is None or (status == NOT_FOUND and not names_saga(body, saga_id)):
        return ReplyKind.UNKNOWN  # a 404 of the path, and not of the saga
    return SAGA_VIEW_REPLIES[status].get(outcome, ReplyKind.UNKNOWN)


def encode_executed(saga_id: str, data: dict[str, Any]) -> bytes:
    """The body of a 200. Raises ValueError when `data` cannot be said in JSON."""
    return encode_object(Executed(saga_id=saga_id, data=data), data)


def check_executed(saga_id: str, data: dict[str, Any], limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise WireError, or ValueError, for a 200 that its receiver would not believe.

    It would be in doubt of what is done, however often it asked.
    """
    decode_object(encode_executed(saga_id, data), limits)


def decode_executed(body: bytes, saga_id: str, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """The additions in a neighbour's 200, by the name of the stage.

    A simple neighbour may leave out `saga_id`, and `data` when it adds nothing. It may not leave
    out `outcome`: a maintenance page is a 200 too. Raises WireError (502, outcome unknown) for
    anything else: the neighbour may well have done its part, but did not say so in a way that can
    be trusted (rule 27).
    """
    try:
        members = decode_object(body, limits)
        refuse_unknown(
            members, _EXECUTED_MEMBERS, "the answer", "answer only what the protocol names"
        )
    except WireError as error:
        raise untrusted_answer(error.detail) from None
    if members.get("saga_id", saga_id) != saga_id:
        raise untrusted_answer("saga_id is that of another saga")
    if members.get("outcome") != Outcome.EXECUTED.value:
        raise untrusted_answer("outcome is not executed, but the code is 200")
    data = members.get("data", {})
    if type(data) is not dict:
        raise untrusted_answer("data is not an object")
    return data


def encode_compensate(
    requested_by: str,
    reason: str,
    outcome: Outcome | None = None,
    limits: Limits = DEFAULT_LIMITS,
    *,
    first_sent_at: float | None = None,
) -> bytes:
    """The body that asks to compensate. Text is cut to its limit: it must not stop the request."""
    request = CompensateRequest(
        requested_by=sendable(requested_by, limits.requested_by_chars_max) or UNKNOWN_REQUESTER,
        reason=sendable(reason, limits.reason_chars_max),
        outcome=outcome,
    )
    members = msgspec.to_builtins(request)
    if first_sent_at is not None:
        members["first_sent_at"] = format_instant(first_sent_at)
    return msgspec.json.encode(members)


def decode_compensate(body: bytes, limits: Limits = DEFAULT_LIMITS) -> CompensateRequest:
    """The asker, the reason, the asker's own word. The body may be empty. Raises WireError."""
    if not body:
        return CompensateRequest()
    members = decode_object(body, limits)
    refuse_unknown(members, _COMPENSATE_MEMBERS, "the request")
    return CompensateRequest(
        requested_by=_text(members, "requested_by", "", limits.requested_by_chars_max)
        or UNKNOWN_REQUESTER,
        reason=_text(members, "reason", "", limits.reason_chars_max),
        outcome=_asker_outcome(members),
        first_sent_at=_instant(members, "first_sent_at"),
    )


def _instant(members: dict[str, Any], name: str) -> float | None:
    if name not in members:
        return None
    value = members[name]
    try:
        return parse_instant(value if type(value) is str else "")
    except ValueError as error:
        raise WireError(422, "Request not accepted", f"{name} is {error}") from None


def _asker_outcome(members: dict[str, Any]) -> Outcome | None:
    if "outcome" not in members:
        return None
    if members["outcome"] != Outcome.COMPENSATED.value:
        raise WireError(
            422,
            "Request not accepted",
            "outcome is not compensated",
            hint="send compensated when nothing stands at you or behind you, or leave it out",
        )
    return Outcome.COMPENSATED


def _text(members: dict[str, Any], name: str, default: str, chars_max: int) -> str:
    value = members.get(name, default)
    if type(value) is not str:
        raise WireError(422, "Request not accepted", f"{name} is not a string")
    if len(value) > chars_max:
        raise WireError(
            422,
            "Request not accepted",
            f"{name} has {len(value)} characters",
            hint=f"send at most {chars_max}",
        )
    return value
