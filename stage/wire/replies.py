"""Requests to compensate, the answer of a stage that is done, and what a code means.

The tables are those of the protocol, sections 3.3 and 3.4.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NoReturn

import msgspec

from stage.wire.envelope import format_instant, parse_instant, refuse_unknown
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import WireError
from stage.wire.strict_json import decode_object, encode_object
from stage.wire.text import sendable

_EXECUTED_MEMBERS = frozenset({"saga_id", "outcome", "data"})
_COMPENSATE_MEMBERS = frozenset({"requested_by", "reason", "first_sent_at"})


class ReplyKind(StrEnum):
    """What an answer to `POST /sagas` means for the caller."""

    EXECUTED = "executed"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    REJECTED = "rejected"
    GONE = "gone"
    NOT_NOW = "not_now"
    TOO_LATE = "too_late"
    UNKNOWN = "unknown"


class CompensateReplyKind(StrEnum):
    """What an answer to `POST /sagas/{id}/compensate` means for the caller."""

    COMPENSATED = "compensated"
    ACCEPTED = "accepted"
    CANNOT = "cannot"
    NOT_NOW = "not_now"
    UNKNOWN = "unknown"


REPLY_KINDS = {
    200: ReplyKind.EXECUTED,
    202: ReplyKind.ACCEPTED,
    400: ReplyKind.REJECTED,
    401: ReplyKind.REJECTED,
    403: ReplyKind.REJECTED,
    409: ReplyKind.REFUSED,
    410: ReplyKind.GONE,
    413: ReplyKind.REJECTED,
    415: ReplyKind.REJECTED,
    422: ReplyKind.REJECTED,
    429: ReplyKind.NOT_NOW,
    503: ReplyKind.NOT_NOW,
    504: ReplyKind.TOO_LATE,
}
COMPENSATE_REPLIES = {
    200: CompensateReplyKind.COMPENSATED,
    202: CompensateReplyKind.ACCEPTED,
    409: CompensateReplyKind.CANNOT,
    410: CompensateReplyKind.COMPENSATED,
    429: CompensateReplyKind.NOT_NOW,
    503: CompensateReplyKind.NOT_NOW,
}

NOT_SERVED = frozenset({405, 501})
SAGA_VIEW_REPLIES: dict[int, dict[str, ReplyKind]] = {
    200: {
        Outcome.EXECUTED: ReplyKind.EXECUTED,
        Outcome.IN_PROGRESS: ReplyKind.ACCEPTED,
        Outcome.NOT_EXECUTED: ReplyKind.GONE,
        Outcome.COMPENSATED: ReplyKind.GONE,
        Outcome.UNKNOWN: ReplyKind.GONE,  # it failed to compensate; asking it to shows what stands
    },
    404: {Outcome.NOT_EXECUTED: ReplyKind.GONE},
}


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """Done here and downstream. `data` holds what was added, by the name of the stage."""

    saga_id: str
    outcome: Outcome = Outcome.EXECUTED
    data: dict[str, Any]


class CompensateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The asker and the reason. Both are shown and stored, and decide nothing.

    `first_sent_at` is when the saga was first sent to whom is asked, or earlier, in seconds since
    the epoch: it shows a stage with another database that it must have seen the saga.
    """

    requested_by: str = "unknown"
    reason: str = ""
    first_sent_at: float | None = None


def kind_of_reply(status: int) -> ReplyKind:
    """What a code means in answer to `POST /sagas`. What the table does not hold is unknown."""
    return REPLY_KINDS.get(status, ReplyKind.UNKNOWN)


def kind_of_compensate_reply(status: int) -> CompensateReplyKind:
    """What a code means in answer to `compensate`. What the table does not hold is unknown."""
    return COMPENSATE_REPLIES.get(status, CompensateReplyKind.UNKNOWN)


def kind_of_saga_view(status: int, body: bytes, saga_id: str) -> ReplyKind:
    """What an answer to `GET /sagas/{id}` shows: EXECUTED, ACCEPTED (it runs), GONE or UNKNOWN.

    GONE is the neighbour's own word that it is not done there, or that it shows no sagas. An error
    that does not speak of the saga is UNKNOWN: something between us may have answered.
    """
    if status in NOT_SERVED:
        return ReplyKind.GONE
    if status not in SAGA_VIEW_REPLIES:
        return ReplyKind.UNKNOWN
    try:
        members = decode_object(body, DEFAULT_LIMITS)
    except WireError:
        return ReplyKind.UNKNOWN
    outcome = members.get("outcome")
    if members.get("saga_id", saga_id) != saga_id or type(outcome) is not str:
        return ReplyKind.UNKNOWN
    return SAGA_VIEW_REPLIES[status].get(outcome, ReplyKind.UNKNOWN)


def encode_executed(saga_id: str, data: dict[str, Any]) -> bytes:
    """The body of a 200. Raises ValueError when `data` cannot be said in JSON."""
    return encode_object(Executed(saga_id=saga_id, data=data), data)


def decode_executed(body: bytes, saga_id: str, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """What a neighbour's 200 says was added, by the name of the stage.

    A simple neighbour may leave out `saga_id` and `outcome`, and answer `{}` when it adds nothing.
    Raises WireError (502, outcome unknown) for anything else: the neighbour may well have done its
    part, but did not say so in a way that can be trusted (rule 27).
    """
    try:
        members = decode_object(body, limits)
        refuse_unknown(
            members, _EXECUTED_MEMBERS, "the answer", "answer only what the protocol names"
        )
    except WireError as error:
        _refuse_answer(error.detail)
    if not members:
        return {}
    if members.get("saga_id", saga_id) != saga_id:
        _refuse_answer("saga_id is that of another saga")
    if members.get("outcome", Outcome.EXECUTED.value) != Outcome.EXECUTED.value:
        _refuse_answer("outcome is not executed, but the code is 200")
    if "data" not in members:
        _refuse_answer("data is missing")
    data = members["data"]
    if type(data) is not dict:
        _refuse_answer("data is not an object")
    return data


def encode_compensate(
    requested_by: str,
    reason: str,
    limits: Limits = DEFAULT_LIMITS,
    *,
    first_sent_at: float | None = None,
) -> bytes:
    """The body that asks to compensate. Text is cut to its limit: it must not stop the request."""
    members = {
        "requested_by": sendable(requested_by, limits.requested_by_chars_max) or "unknown",
        "reason": sendable(reason, limits.reason_chars_max),
    }
    if first_sent_at is not None:
        members["first_sent_at"] = format_instant(first_sent_at)
    return msgspec.json.encode(members)


def decode_compensate(body: bytes, limits: Limits = DEFAULT_LIMITS) -> CompensateRequest:
    """The asker and the reason. An empty body is allowed. Raises WireError."""
    if not body:
        return CompensateRequest()
    members = decode_object(body, limits)
    refuse_unknown(members, _COMPENSATE_MEMBERS, "the request")
    return CompensateRequest(
        requested_by=_text(members, "requested_by", "unknown", limits.requested_by_chars_max)
        or "unknown",
        reason=_text(members, "reason", "", limits.reason_chars_max),
        first_sent_at=_instant(members, "first_sent_at"),
    )


def _instant(members: dict[str, Any], name: str) -> float | None:
    value = members.get(name)
    if value is None and name not in members:
        return None
    try:
        return parse_instant(value if type(value) is str else "")
    except ValueError as error:
        raise WireError(422, "Request not accepted", f"{name} is {error}") from None


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


def _refuse_answer(detail: str) -> NoReturn:
    raise WireError(
        502,
        "Answer not understood",
        f"the neighbour's answer cannot be trusted: {detail}",
        outcome=Outcome.UNKNOWN,
        retryable=True,
    ) from None
