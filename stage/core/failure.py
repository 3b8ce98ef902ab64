"""The kinds of failure that an attempt ends in, and the one table from HTTP codes to them."""

from __future__ import annotations

from enum import StrEnum


class FailureKind(StrEnum):
    """How an attempt ends when it does not succeed (rule 4)."""

    REFUSED = "refused"
    """A business no: nothing happened, never retried."""
    TRANSIENT = "transient"
    """It certainly did not happen."""
    IN_DOUBT = "in_doubt"
    """Nobody knows."""
    PENDING = "pending"
    """It was taken on there, and how it ends becomes known later (decision 0060)."""
    DEFECT = "defect"
    """The author's code failed before any request was prepared: it certainly did not happen."""


TRANSIENT_CODES = frozenset({401, 429})
IN_DOUBT_CODES = frozenset({408, 425})
NONE: frozenset[int] = frozenset()


def classify_code(
    code: int,
    transient_on: frozenset[int] = NONE,
    refused_on: frozenset[int] = NONE,
    pending_on: frozenset[int] = NONE,
) -> FailureKind | None:
    """The meaning of an answer's code, or None when the author's function decides.

    2xx and 4xx answers go to the function, but for 401, 408, 425 and 429. A 401 says that nothing
    was done for want of a credential, which is the operator's and not the function's to judge. A
    redirect is not followed, and 1xx and 3xx prove nothing: in doubt, like 5xx. The declaration of
    the call takes precedence.
    """
    if code in transient_on:
        return FailureKind.TRANSIENT
    if code in refused_on:
        return FailureKind.REFUSED
    if code in pending_on:
        return FailureKind.PENDING
    if code in TRANSIENT_CODES:
        return FailureKind.TRANSIENT
    if code in IN_DOUBT_CODES or not (200 <= code < 300 or 400 <= code < 500):
        return FailureKind.IN_DOUBT
    return None
