"""`GET /sagas?since=`: the sagas that a stage shares with one neighbour (protocol 3.8).

A stage whose database was restored asks each neighbour for them, to find the sagas that it lost.
An item holds the envelope that passed between the two, and nothing that the neighbour has not
seen before.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from stage.wire.envelope import (
    Envelope,
    check_saga_id,
    decode_envelope,
)
from stage.wire.limits import DEFAULT_LIMITS, VALUE_BYTES_MIN, Limits
from stage.wire.outcome import Outcome
from stage.wire.problem import untrusted_answer
from stage.wire.views import decode_view

SHARED_PAGE_MAX = 100
"""Sagas that are looked at for one page."""
SHARED_BYTES_MAX = 262_144
"""A page ends behind the saga with which its envelopes exceed it."""
ENVELOPE_BYTES_MAX = 700_000
"""A larger envelope is left out, so that a page fits into the answer that a stage reads."""
SHARED_LIMITS: Final = msgspec.structs.replace(
    DEFAULT_LIMITS,
    depth_max=DEFAULT_LIMITS.depth_max + 3,
    values_max=DEFAULT_LIMITS.body_bytes_max // VALUE_BYTES_MIN,
)
"""The limits of a page, which holds many envelopes; each envelope is held to the usual limits."""
CURSOR_CHARS_MAX = 200
_SECONDS: Final = re.compile(r"[0-9]{1,11}(\.[0-9]{1,9})?")


class Side(StrEnum):
    """Where the stage that answers stands, as seen by the one that asks."""

    UPSTREAM = "upstream"
    """It handed the saga to the asker."""
    DOWNSTREAM = "downstream"
    """It has the saga from the asker."""


class SharedSaga(msgspec.Struct, frozen=True, kw_only=True):
    """One saga that both know.

    From downstream, `outcome` is that of the saga there. From upstream it is what that knows of
    the stage that asks: `executed` and `compensated` only where it has its answer.
    """

    saga_id: str
    side: Side
    outcome: Outcome
    accepted_at: str
    updated_at: str
    envelope: dict[str, Any] | None
    """The envelope as upstream of the two sent it; None where it is too large for a page."""

    @property
    def sent(self) -> Envelope | None:
        """The envelope, checked as if it had just come. Raises WireError."""
        return (
            None if self.envelope is None else decode_envelope(msgspec.json.encode(self.envelope))
        )


class SharedPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page. `shared_with` repeats the name of the one that asks, so that no other list is read
    as one; `next` is the `after` of the next page, and None at the end."""

    stage: str
    shared_with: str
    sagas: list[SharedSaga]
    next: str | None = None


def decode_shared(body: bytes, asker: str, limits: Limits = SHARED_LIMITS) -> SharedPage:
    """The page in a neighbour's answer. Raises WireError (502) when it is not to be trusted."""
    page = decode_view(body, SharedPage, limits)
    if page.shared_with != asker:
        raise untrusted_answer(f"it lists the sagas that are shared with {page.shared_with[:48]!r}")
    if len(page.sagas) > SHARED_PAGE_MAX:
        raise untrusted_answer(f"it has {len(page.sagas)} sagas")
    for saga in page.sagas:
        check_saga_id(saga.saga_id)
        sent = saga.sent
        if sent is not None and sent.saga_id != saga.saga_id:
            raise untrusted_answer(f"the envelope of {saga.saga_id} is that of another saga")
    return page


def cursor_of(at: float, saga_id: str) -> str:
    """The `after` that stands for everything behind this change."""
    return f"{at!r}/{saga_id}"


def parse_cursor(text: str) -> tuple[float, str]:
    """The instant and the saga id of a cursor. Raises ValueError for what is none."""
    at, slash, saga_id = text[:CURSOR_CHARS_MAX].partition("/")
    if not (slash and _SECONDS.fullmatch(at)):
        raise ValueError("after is not the `next` of a page")
    return float(at), saga_id
