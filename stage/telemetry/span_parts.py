"""The constant parts of spans: one for all spans of a step, and one for each way to end.

Few values come again and again, so each is made once and kept, with its encoded form beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import names

REASON_CHARS_MAX: Final = 300
OUTCOMES_CACHED_MAX: Final = 256
"""A few words, and the codes of HTTP."""


NO_ATTRIBUTES: Final[Mapping[str, Any]] = MappingProxyType({})


class SpanType:
    """A type of span that we make. `error_code_min` is None for one that is not HTTP."""

    __slots__ = ("error_code_min", "kind")

    def __init__(self, kind: SpanKind, error_code_min: int | None = None) -> None:
        self.kind = kind
        self.error_code_min = error_code_min


SERVER: Final = SpanType(SpanKind.SERVER, error_code_min=500)
CLIENT: Final = SpanType(SpanKind.CLIENT, error_code_min=400)
INTERNAL: Final = SpanType(SpanKind.INTERNAL)


class SpanTemplate:
    """A span before it has a saga: its name, its type, and the attributes that do not change.

    `before` and `after` are the attributes on either side of the saga id.
    """

    __slots__ = ("after", "before", "encoded", "name", "span_type")

    def __init__(
        self,
        name: str,
        span_type: SpanType,
        before: Mapping[str, Any],
        after: Mapping[str, Any] = NO_ATTRIBUTES,
    ) -> None:
        self.name = name
        self.span_type = span_type
        self.before = before
        self.after = after
        self.encoded: tuple[bytes, bytes, bytes] | None = None
        """The name and the attributes as `telemetry.fast.otlp` encodes them; None until then."""

    def attributes(self, saga_id: str) -> dict[str, Any]:
        """All attributes of a span that begins; without a saga where `saga_id` is empty."""
        if not saga_id:
            return {**self.before, **self.after}
        return {**self.before, names.SAGA_ID: saga_id, **self.after}


class SpanEnd:
    """The attributes that are added to a span when it ends; no status where it did not fail."""

    __slots__ = ("attributes", "encoded", "status")

    def __init__(self, attributes: Mapping[str, Any], status: Status | None) -> None:
        self.attributes = attributes
        self.status = status
        self.encoded: tuple[bytes, bytes] | None = None
        """Both as `telemetry.fast.otlp` encodes them; None until then."""


def end_of(span_type: SpanType, outcome: str, error: str) -> SpanEnd:
    """`outcome` and `error` are those of `ports.observer.Span.end`."""
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
def usual_end(span_type: SpanType, outcome: str) -> SpanEnd:
    """The end without an error, of which there are few."""
    return end_of(span_type, outcome, "")
