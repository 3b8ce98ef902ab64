"""W3C Trace Context: reads the headers that came in, and writes those that go out.

The law (W3C Recommendation "Trace Context", sections 3.2 and 3.3): a `traceparent` that is
missing, invalid or sent twice starts a new trace and is never an error; `tracestate` counts only
beside a valid `traceparent` and is dropped as a whole when one of its members is invalid.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from random import Random
from typing import NamedTuple

from stage.ports.observer import TraceContext
from stage.wire.headers import BAGGAGE, TRACEPARENT, TRACESTATE

SAMPLED = 0x01
KNOWN_FLAGS = 0x03
"""Sampled, and random trace id (level 2). Other bits are not passed on: 3.2.2.5 sets them to 0."""
TRACESTATE_MEMBERS_MAX = 32
TRACESTATE_CHARS_MAX = 512
TRACESTATE_LONG_MEMBER_CHARS = 128
"""When a tracestate has to be cut, members longer than this go first (3.3.1.5)."""
BAGGAGE_MEMBERS_MAX = 64
BAGGAGE_CHARS_MAX = 8_192
"""The least that the W3C Recommendation "Baggage" demands (3.3.2); we pass on no more."""

NOTHING = TraceContext()

_OWS = " \t"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KEY = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_MEMBER = re.compile(f"({_KEY})=({_VALUE})")
_BAGGAGE_KEY = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BAGGAGE_MEMBER = re.compile(rf"({_BAGGAGE_KEY})[ \t]*=[ \t]*[\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]*")


_random = Random()
"""Ids have to differ and are no secret. To ask the kernel would give the interpreter away."""
os.register_at_fork(after_in_child=_random.seed)


class Ids(NamedTuple):
    """A traceparent taken apart: ids as numbers, and the flags that we know."""

    trace_id: int
    span_id: int
    flags: int


def read(headers: Sequence[tuple[str, str]]) -> TraceContext:
    """The trace that the headers of a request name; NOTHING without a valid one.

    Names are compared without case. The result is in version 00, ready to be stored.
    """
    parents: list[str] = []
    states: list[str] = []
    for name, value in headers:
        # The length is compared first: most headers differ in it.
        if len(name) == len(TRACEPARENT) and name.lower() == TRACEPARENT:
            parents.append(value)
        elif len(name) == len(TRACESTATE) and name.lower() == TRACESTATE:
            states.append(value)
    if len(parents) != 1:
        return NOTHING
    ids = parse(parents[0].strip(_OWS))
    if ids is None:
        return NOTHING
    return TraceContext(
        traceparent=format_traceparent(ids), tracestate=read_tracestate(states) if states else ""
    )


def parse(traceparent: str) -> Ids | None:
    """The parts of a traceparent, or None when it is not one.

    A later version may have more parts behind a dash; version 00 may not, and ff is none.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    ids = Ids(int(trace_id, 16), int(span_id, 16), int(flags, 16) & KNOWN_FLAGS)
    return ids if ids.trace_id and ids.span_id else None


def read_tracestate(values: Sequence[str]) -> str:
    """All `tracestate` headers as one; "" when it is invalid. Of two equal keys the first holds."""
    members: dict[str, str] = {}
    count = 0
    for part in ",".join(values).split(","):
        member = part.strip(_OWS)
        if not member:
            continue  # empty members are allowed, and left out
        count += 1
        found = _MEMBER.fullmatch(member)
        if found is None or count > TRACESTATE_MEMBERS_MAX:
            return ""
        members.setdefault(found[1], member)
    return _cut(list(members.values()))


def read_baggage(headers: Sequence[tuple[str, str]], keys: Collection[str]) -> str:
    """The members of all `baggage` headers that have one of these keys, as one header.

    Invalid members are left out one by one, and so are those beyond the limits.
    """
    kept: list[str] = []
    length = -1
    for name, value in headers:
        if len(name) != len(BAGGAGE) or name.lower() != BAGGAGE:
            continue
        for part in value.split(","):
            member = part.strip(_OWS)
            found = _BAGGAGE_MEMBER.fullmatch(member)
            if found is None or found[1] not in keys:
                continue
            length += len(member) + 1
            if len(kept) == BAGGAGE_MEMBERS_MAX or length > BAGGAGE_CHARS_MAX:
                return ",".join(kept)
            kept.append(member)
    return ",".join(kept)


def format_traceparent(ids: Ids) -> str:
    """The header in version 00."""
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.flags & KNOWN_FLAGS:02x}"


def new_ids() -> Ids:
    """A trace of our own, where a request came without one and nothing here makes spans.

    It is sampled: otherwise a stage behind us that does trace would not.
    """
    return Ids(_random.getrandbits(128) or 1, _random.getrandbits(64) or 1, SAMPLED)


def new_trace() -> TraceContext:
    """`new_ids`, ready to be stored and sent."""
    return TraceContext(traceparent=format_traceparent(new_ids()))


def _cut(members: list[str]) -> str:
    """The members within TRACESTATE_CHARS_MAX: whole members go, the long ones first."""
    if len(",".join(members)) > TRACESTATE_CHARS_MAX:
        members = [member for member in members if len(member) <= TRACESTATE_LONG_MEMBER_CHARS]
    while len(",".join(members)) > TRACESTATE_CHARS_MAX:
        members.pop()
    return ",".join(members)
