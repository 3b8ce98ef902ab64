"""How a span ends: the attributes and the status that its outcome gives it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import names

REASON_CHARS_MAX: Final = 300
OUTCOMES_CACHED_MAX: Final = 256
"""A few words, and the codes of HTTP."""


class SpanType:
    """A type of span that we make. `error_code_min` is None for one that is not HTTP."""

    __slots__ = ("error_code_min", "kind")

    def __init__(self, kind: SpanKind, error_code_min: int | None = None) -> None:
        self.kind = kind
        self.error_code_min = error_code_min


SERVER: Final = SpanType(SpanKind.SERVER, error_code_min=500)
CLIENT: Final = SpanType(SpanKind.CLIENT, error_code_min=400)
INTERNAL: Final = SpanType(SpanKind.INTERNAL)


class SpanEnd(NamedTuple):
    """The attributes that are added to a span when it ends; no status where it did not fail."""

    attributes: Mapping[str, Any]
    status: Status | None


def span_end(span_type: SpanType, outcome: str, error: str) -> SpanEnd:
    """`outcome` and `error` are those of `ports.observer.Span.end`."""
    return _end(span_type, outcome, error) if error else _without_error(span_type, outcome)


def _end(span_type: SpanType, outcome: str, error: str) -> SpanEnd:
    attributes: dict[str, Any] = {}
    reason = error[:REASON_CHARS_MAX] or None
    if span_type.error_code_min is not None:
        # A server span fails for 5xx, a client span for 4xx too (HTTP conventions).
        failed = True
        if outcome.isdecimal():
            attributes[names.HTTP_STATUS] = int(outcome)
            failed = int(outcome) >= span_type.error_code_min
    else:
        attributes[names.OUTCOME] = outcome
        if reason:
            attributes[names.REASON] = reason
        failed = outcome in names.FAILED_OUTCOMES
    if failed:
        attributes[names.ERROR_TYPE] = outcome
    return SpanEnd(attributes, Status(StatusCode.ERROR, reason) if failed else None)


@lru_cache(maxsize=OUTCOMES_CACHED_MAX)
def _without_error(span_type: SpanType, outcome: str) -> SpanEnd:
    return _end(span_type, outcome, "")
