"""W3C trace context, as much of it as a small service needs to pass a trace on."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stage.wire.headers import TRACEPARENT, TRACESTATE

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
TRACESTATE_LENGTH_MAX = 512
SAMPLED = "01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The trace that a saga belongs to, and the span that its requests stand below."""

    trace_id: str
    span_id: str = ""
    """Empty in a trace that begins here."""
    flags: str = SAMPLED
    state: str = ""
    own: bool = False
    """True when `span_id` names a span that this service made; a request then carries that id."""

    def below(self, trace_id: str, span_id: str, flags: str) -> Trace:
        """The same trace, continued below a span that this service made."""
        return replace(self, trace_id=trace_id, span_id=span_id, flags=flags, own=True)

    def headers(self) -> dict[str, str]:
        """The headers of one outgoing request, with a new span id unless `own`."""
        span_id = self.span_id if self.own else secrets.token_hex(8)
        headers = {TRACEPARENT: f"00-{self.trace_id}-{span_id}-{self.flags}"}
        if self.state:
            headers[TRACESTATE] = self.state
        return headers


def trace_of(headers: Mapping[str, str]) -> Trace:
    """The trace of a request, or a new sampled one if the request names no valid trace."""
    return read_trace(headers) or Trace(trace_id=secrets.token_hex(16))


def read_trace(headers: Mapping[str, str]) -> Trace | None:
    """The trace that a request names, or None if it names none or an invalid one."""
    found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, "").strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    # All zeros are invalid; version ff is forbidden; version 00 has exactly four parts.
    if not int(trace_id, 16) or not int(span_id, 16) or version == "ff":
        return None
    if version == "00" and rest:
        return None
    state = headers.get(TRACESTATE, "")
    return Trace(
        trace_id=trace_id,
        span_id=span_id,
        flags=flags,
        state=state if len(state) <= TRACESTATE_LENGTH_MAX else "",
    )
