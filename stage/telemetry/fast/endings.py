"""How a span ends: the attributes and the status that its outcome gives it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import Status, StatusCode

from stage.telemetry import names

ERROR_CHARS_MAX: Final = 300


class Sort:
    """One of the sorts of spans that we make. `error_code_min` is None for what is not HTTP."""

    __slots__ = ("error_code_min", "kind")

    def __init__(self, kind: SpanKind, error_code_min: int | None = None) -> None:
        self.kind = kind
        self.error_code_min = error_code_min


SERVER: Final = Sort(SpanKind.SERVER, error_code_min=500)
CLIENT: Final = Sort(SpanKind.CLIENT, error_code_min=400)
INTERNAL: Final = Sort(SpanKind.INTERNAL)


class Ending(NamedTuple):
    """What is added to a span when it ends; no status where it went well."""

    attributes: Mapping[str, Any]
    status: Status | None


def ending(sort: Sort, outcome: str, error: str) -> Ending:
    """`outcome` and `error` are those of `ports.observer.Span.end`."""
    return _ending(sort, outcome, error) if error else _without_error(sort, outcome)


def _ending(sort: Sort, outcome: str, error: str) -> Ending:
    told: dict[str, Any] = {}
    reason = error[:ERROR_CHARS_MAX] or None
    if sort.error_code_min is not None:
        # A server span fails for 5xx, a client span for 4xx too (HTTP conventions).
        failed = True
        if outcome.isdecimal():
            told[names.HTTP_STATUS] = int(outcome)
            failed = int(outcome) >= sort.error_code_min
    else:
        told[names.OUTCOME] = outcome
        if reason:
            told[names.REASON] = reason
        failed = outcome in names.FAILED_OUTCOMES
    if failed:
        told[names.ERROR_TYPE] = outcome
    return Ending(told, Status(StatusCode.ERROR, reason) if failed else None)


@lru_cache(maxsize=256)  # a few words, and the codes of HTTP
def _without_error(sort: Sort, outcome: str) -> Ending:
    return _ending(sort, outcome, "")
