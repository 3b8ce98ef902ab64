"""The proof in a request to compensate a saga that is not in the database (protocol 3.4).

Pure. A saga that is not there was either never seen, and a tombstone is the right answer, or it
was lost with an older database. The two look alike, so the request is asked for proof.
"""

from __future__ import annotations

import re
from enum import StrEnum

from stage.core.questions import hands_on_to
from stage.core.steps import Plan

_UUID7 = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""RFC 9562, section 5.7: the first 48 bits are milliseconds since the epoch."""


class Unseen(StrEnum):
    """A saga that is not in the database."""

    NEW = "new"
    """Nothing says that it was ever here."""
    MAY_BE_LOST = "may_be_lost"
    """It was sent before this database knew everything that was sent here."""
    LOST = "lost"
    """A stage behind this one has it from us."""


def judge_unseen(
    plan: Plan,
    saga_id: str,
    *,
    requested_by: str,
    first_sent_at: float | None,
    lost_before: float,
) -> Unseen:
    """Whether it may be lost. Sagas sent before `lost_before` may be missing from the database."""
    if hands_on_to(plan, requested_by):
        return Unseen.LOST
    sent_at = first_sent_at if first_sent_at is not None else sent_at_of(saga_id)
    if lost_before == float("inf") or (sent_at is not None and sent_at < lost_before):
        return Unseen.MAY_BE_LOST
    return Unseen.NEW


def may_be_dropped(saga_id: str, ids_until: float) -> bool:
    """Whether a saga that is not there may be one whose row was dropped for its age.

    Rows are dropped only of sagas whose ids have an instant up to `ids_until`.
    """
    sent_at = sent_at_of(saga_id)
    return sent_at is not None and sent_at <= ids_until


def proves_age(saga_id: str, closed_at: float) -> bool:
    """Whether the row of a saga that was closed then may go: a repeat of it is known by its id.

    The id must be a UUIDv7 in lower case with an instant before `closed_at`. An id of a later
    instant comes from a wrong clock or from a stranger: if its row were dropped, sagas that are
    still to come would be taken for dropped ones.
    """
    in_order = saga_id == saga_id.lower() and sent_at_of(saga_id) is not None
    return in_order and saga_id < first_id_at(closed_at)


def first_id_at(at: float) -> str:
    """The beginning of the first UUIDv7 of that instant, in lower case: older ids sort before it.

    The order is that of their characters, because an id begins with its instant.
    """
    milliseconds = min(max(0, int(at * 1000)), 0xFFFF_FFFF_FFFF)
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7"


def sent_at_of(saga_id: str) -> float | None:
    """The instant in a UUIDv7, in seconds since the epoch; None for any other id."""
    found = _UUID7.fullmatch(saga_id.lower())
    return None if found is None else int(found[1] + found[2], 16) / 1000.0
