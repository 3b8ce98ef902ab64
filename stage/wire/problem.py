"""Errors as they travel: problem details (RFC 9457) with the outcome that decides what follows."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from stage.wire.flood import has_more_exponents
from stage.wire.limits import DEFAULT_LIMITS, Limits
from stage.wire.outcome import Outcome
from stage.wire.text import sendable

CONTENT_TYPE = "application/problem+json"
ABOUT_BLANK = "about:blank"

TITLE_CHARS_MAX = 256
STANDS_MAX = 64
TRACE_ID_RE = re.compile(r"[0-9a-f]{32}")


class ProblemType(StrEnum):
    """The `type` of every problem that is sent here, one a case (protocol 3.3)."""

    FAILED = "urn:saga-stage:problem:failed"
    COMPENSATED = "urn:saga-stage:problem:compensated"
    FORGOTTEN = "urn:saga-stage:problem:forgotten"
    FAILED_TO_COMPENSATE = "urn:saga-stage:problem:failed-to-compensate"
    CANNOT_COMPENSATE = "urn:saga-stage:problem:cannot-compensate"
    ID_REUSED = "urn:saga-stage:problem:saga-id-reused"
    OWN_MEMBER = "urn:saga-stage:problem:own-member-taken"
    NOT_YOURS = "urn:saga-stage:problem:not-your-saga"
    VERB_NOT_ALLOWED = "urn:saga-stage:problem:verb-not-allowed"
    PAST_RETENTION = "urn:saga-stage:problem:past-retention"
    SAGA_LOST = "urn:saga-stage:problem:saga-lost"
    DEFECT = "urn:saga-stage:problem:defect"
    # Each type below is the only case of its code.
    NOT_READABLE = "urn:saga-stage:problem:not-readable"
    NOT_KNOWN_WHO = "urn:saga-stage:problem:unauthenticated"
    FORBIDDEN = "urn:saga-stage:problem:forbidden"
    NOT_FOUND = "urn:saga-stage:problem:not-found"
    METHOD = "urn:saga-stage:problem:method-not-allowed"
    TOO_SLOW = "urn:saga-stage:problem:too-slow"
    CONFLICT = "urn:saga-stage:problem:conflict"
    GONE = "urn:saga-stage:problem:gone"
    TOO_LARGE = "urn:saga-stage:problem:too-large"
    CONTENT_TYPE = "urn:saga-stage:problem:content-type"
    NOT_ACCEPTED = "urn:saga-stage:problem:not-accepted"
    TOO_MANY = "urn:saga-stage:problem:too-many-requests"
    UNKNOWN = "urn:saga-stage:problem:unknown"
    ANSWER = "urn:saga-stage:problem:answer-not-understood"
    NOT_NOW = "urn:saga-stage:problem:not-now"
    DEADLINE_OVER = "urn:saga-stage:problem:deadline-over"


TYPE_OF_STATUS: Final = {
    400: ProblemType.NOT_READABLE,
    401: ProblemType.NOT_KNOWN_WHO,
    403: ProblemType.FORBIDDEN,
    404: ProblemType.NOT_FOUND,
    405: ProblemType.METHOD,
    408: ProblemType.TOO_SLOW,
    409: ProblemType.CONFLICT,
    410: ProblemType.GONE,
    413: ProblemType.TOO_LARGE,
    415: ProblemType.CONTENT_TYPE,
    422: ProblemType.NOT_ACCEPTED,
    429: ProblemType.TOO_MANY,
    500: ProblemType.UNKNOWN,
    502: ProblemType.ANSWER,
    503: ProblemType.NOT_NOW,
    504: ProblemType.DEADLINE_OVER,
}
"""The type of a problem that names none of its own."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document. `outcome` and `retryable` are always written, the rest when known.

    A problem without a type of its own is written with the type of its code (TYPE_OF_STATUS).
    `stands` lists what still stands after a compensation that failed, `may_stand` the effects of
    which nobody knows. `status` is 0 in a problem that was received without one: the code of the
    answer itself holds.
    """

    type: str = ABOUT_BLANK
    title: str
    status: int
    detail: str = ""
    outcome: Outcome
    # A factory, so that omit_defaults leaves the member in.
    retryable: bool = msgspec.field(default_factory=bool)
    saga_id: str | None = None
    trace_id: str | None = None
    hint: str | None = None
    stands: tuple[str, ...] | None = None
    may_stand: tuple[str, ...] | None = None

    @property
    def left(self) -> tuple[str, ...]:
        """All that stands or may stand, for those that only ask whether anything is left."""
        return (*(self.stands or ()), *(self.may_stand or ()))

    def encode(self) -> bytes:
        """The body to send as `application/problem+json`. Never fails: text is made sendable."""
        typed = self
        if self.type == ABOUT_BLANK and self.status in TYPE_OF_STATUS:
            typed = msgspec.structs.replace(self, type=TYPE_OF_STATUS[self.status])
        try:
            return msgspec.json.encode(typed)
        except UnicodeEncodeError:
            # A lone surrogate, usually out of a foreign error text, has no UTF-8.
            return msgspec.json.encode(_sendable(msgspec.to_builtins(typed)))


class WireError(Exception):
    """A message breaks the protocol. The sender has to act: `detail` says what to mend.

    By default nothing happened (`not_executed`) and the same bytes will never be accepted.
    """

    # Many because each is a member of the document that it becomes.
    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        hint: str | None = None,
        *,
        outcome: Outcome = Outcome.NOT_EXECUTED,
        retryable: bool = False,
        type: str = ABOUT_BLANK,  # noqa: A002 - the word of RFC 9457
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.hint = hint
        self.outcome = outcome
        self.retryable = retryable
        self.type = type

    def problem(self, saga_id: str | None = None, trace_id: str | None = None) -> Problem:
        """The error as a document, with the ids under which it can be looked up."""
        return Problem(
            type=self.type,
            title=self.title,
            status=self.status,
            detail=self.detail,
            outcome=self.outcome,
            retryable=self.retryable,
            saga_id=saga_id,
            trace_id=trace_id,
            hint=self.hint,
        )


def untrusted_answer(why: str) -> WireError:
    """The error for a neighbour's answer that is not as the protocol has it (rule 27)."""
    return WireError(
        502,
        "Answer not understood",
        f"the neighbour's answer cannot be trusted: {why}",
        outcome=Outcome.UNKNOWN,
        retryable=True,
    )


def decode_problem(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Problem | None:
    """The problem in a neighbour's error body, or None when it is not a problem document.

    Lenient, because the text decides nothing: unknown members and members of a wrong type are
    ignored (RFC 9457, 3.1), text is cut to its limit, and an outcome that is missing or foreign is
    `unknown`. At least one of the members type, title, status, detail and outcome must be usable.
    """
    if len(body) > limits.body_bytes_max or has_more_exponents(body, limits.exponents_max):
        return None
    try:
        members = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if type(members) is not dict:
        return None
    kind, title = _text(members, "type", TITLE_CHARS_MAX), _text(members, "title", TITLE_CHARS_MAX)
    detail = _text(members, "detail", limits.reason_chars_max)
    status, outcome = _status(members.get("status")), _outcome(members.get("outcome"))
    if all(found is None for found in (kind, title, detail, status, outcome)):
        return None
    trace_id = _text(members, "trace_id", TITLE_CHARS_MAX)
    return Problem(
        type=kind or ABOUT_BLANK,
        title=title or "",
        status=status or 0,
        detail=detail or "",
        outcome=outcome or Outcome.UNKNOWN,
        retryable=members.get("retryable") is True,
        saga_id=_text(members, "saga_id", limits.saga_id_chars_max),
        trace_id=trace_id if trace_id and TRACE_ID_RE.fullmatch(trace_id) else None,
        hint=_text(members, "hint", limits.reason_chars_max),
        stands=_stands(members.get("stands"), limits.reason_chars_max),
        may_stand=_stands(members.get("may_stand"), limits.reason_chars_max),
    )


def _text(members: dict[str, Any], name: str, chars_max: int) -> str | None:
    value = members.get(name)
    return value[:chars_max] if type(value) is str else None


def _status(value: object) -> int | None:
    return value if type(value) is int and 100 <= value <= 599 else None


def _outcome(value: object) -> Outcome | None:
    try:
        return Outcome(value)  # type: ignore[arg-type]
    except ValueError:
        return None


def _stands(value: object, chars_max: int) -> tuple[str, ...] | None:
    if type(value) is not list:
        return None
    return tuple(item[:chars_max] for item in value[:STANDS_MAX] if type(item) is str)


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value, len(value))
    if isinstance(value, dict):
        return {name: _sendable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sendable(item) for item in value]
    return value
