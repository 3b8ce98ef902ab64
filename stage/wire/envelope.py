"""The envelope: what travels along the chain, and the one reading of it."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, NoReturn
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from stage.wire.limits import DEFAULT_LIMITS, VALUE_BYTES_MIN, Limits
from stage.wire.problem import WireError
from stage.wire.strict_json import (
    decode_object,
    encode_canonical,
    encode_object,
    may_be_rounded,
    members_kept,
    members_written,
    quoted,
    values_kept,
)

PROTOCOL = 1

# "." and ".." are left out: as a segment of a URL they mean another place.
SAGA_ID_RE = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~:-]{1,128}")
STAGE_NAME_RE = re.compile(r"[a-z][a-z0-9_-]{0,47}")

# RFC 3339, 5.6. A leap second (:60) is refused: no instant of ours can name it.
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_INSTANT_CHARS_MAX = 35
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)

ENVELOPE_GROWTH_BYTES = 256
"""The growth of an envelope beside the output: a deadline, a name twice, an instant."""

_ENVELOPE_MEMBERS = frozenset({"saga_id", "protocol", "deadline", "data", "trail"})
_TRAIL_MEMBERS = frozenset({"stage", "at"})


class TrailEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stage that the saga passed, and when it was accepted there (RFC 3339)."""

    stage: str
    at: str


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One saga on its way. `deadline` is in seconds since 1970, kept to the millisecond.

    `data` is a dict that nobody may change: a stage makes a new one.
    """

    saga_id: str
    data: dict[str, Any]
    protocol: int = PROTOCOL
    deadline: float | None = None
    trail: tuple[TrailEntry, ...] = ()

    @property
    def upstream(self) -> str:
        """The neighbour that it came from: the last name of the trail; empty without one."""
        return self.trail[-1].stage if self.trail else ""

    def sent_by(self, name: str) -> Envelope:
        """The same from the neighbour that had that name before, or has it now."""
        if name == self.upstream:
            return self
        last = replace(self.trail[-1], stage=name)
        return replace(self, trail=(*self.trail[:-1], last))


class _Usual(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of nearly every body, as the C decoder checks it; a member left out is unset."""

    saga_id: str
    data: dict[str, Any]
    protocol: Literal[1] | msgspec.UnsetType = msgspec.UNSET
    deadline: str | msgspec.UnsetType = msgspec.UNSET
    trail: tuple[TrailEntry, ...] | msgspec.UnsetType = msgspec.UNSET


class _Sent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The members in the order in which they are written."""

    saga_id: str
    protocol: int
    deadline: str | None = None
    data: dict[str, Any]
    trail: tuple[TrailEntry, ...]


_usual = msgspec.json.Decoder(_Usual)
_CONTROL_VALUES_MAX = 3 * DEFAULT_LIMITS.trail_entries_max + 8
"""The values of the envelope that are not data: three a stage in the trail."""
_USUAL_LEVELS = 3
"""The envelope, its trail, and an entry of it."""


def decode_envelope(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Envelope:
    """The envelope in a body. Raises WireError for whatever is not one.

    400 and 413 come from the JSON itself; 422 names the control member that is wrong. `protocol`,
    `deadline` and `trail` may be left out; a `deadline` of null is none.
    """
    usual = _decode_usual(body, limits)
    return usual if usual is not None else _decode_any(body, limits)


def _decode_usual(body: bytes, limits: Limits) -> Envelope | None:
    """The envelope in a body that leaves no doubt, in half of the time; None when one is left.

    It refuses nothing by itself, so that there is one place which says what is wrong.
    """
    size = len(body)
    if size > limits.body_bytes_max or size > limits.string_chars_max:
        return None
    if limits.depth_max < _USUAL_LEVELS or may_be_rounded(body):
        return None
    if body.count(b",") > limits.values_max:
        return None
    try:
        given = _usual.decode(body)
        members = 2 + members_kept(given.data, limits, levels_above=1)
        members += (given.protocol is not msgspec.UNSET) + (given.deadline is not msgspec.UNSET)
        trail: tuple[TrailEntry, ...] = ()
        if given.trail is not msgspec.UNSET:
            trail = given.trail
            members += 1 + len(_TRAIL_MEMBERS) * len(trail)
        if members != members_written(body) or len(trail) > limits.trail_entries_max:
            return None
        for entry in trail:
            if not _is_stage_name(entry.stage, limits):
                return None
            _datetime_of(entry.at)
        return Envelope(
            saga_id=check_saga_id(given.saga_id, limits),
            data=given.data,
            deadline=None if given.deadline is msgspec.UNSET else _deadline(given.deadline),
            trail=trail,
        )
    except (WireError, msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _decode_any(body: bytes, limits: Limits) -> Envelope:
    """The envelope in any body, member by member: what is wrong is named."""
    given = decode_object(body, limits)
    refuse_unknown(given, _ENVELOPE_MEMBERS, "the envelope", "put what stages share under data")
    if "saga_id" not in given:
        _refuse("saga_id", "is missing")
    if "data" not in given:
        _refuse("data", "is missing")
    data = given["data"]
    if type(data) is not dict:
        _refuse("data", "is not an object")
    saga_id = _checked_saga_id(given["saga_id"], limits)
    protocol = given.get("protocol", PROTOCOL)
    # 1.0 is the same number in JSON; true is not.
    if type(protocol) not in (int, float) or protocol != PROTOCOL:
        _refuse("protocol", "is not a protocol that is spoken here", f"send {PROTOCOL}")
    return Envelope(
        saga_id=saga_id,
        data=data,
        deadline=_deadline(given.get("deadline")),
        trail=_trail(given["trail"], limits) if "trail" in given else (),
    )


def check_room(envelope: Envelope, size: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise WireError (413, 422) when a stage cannot add to the envelope and hand it on.

    Asked before any effect: behind it the neighbour's refusal would come too late. `size` is that
    of the encoded envelope, in bytes.
    """
    most = limits.body_bytes_max - limits.adds_bytes_max - ENVELOPE_GROWTH_BYTES
    if size > most:
        raise WireError(
            413,
            "No room to add",
            f"the envelope has {size} bytes; with what this stage adds it would be too large",
            hint=f"send at most {most} bytes",
        )
    room = limits.values_max - limits.adds_values_max - _CONTROL_VALUES_MAX
    if size > room * VALUE_BYTES_MIN and values_kept(envelope.data) > room:
        _refuse(
            "data",
            f"holds more than {room} members and items, and no room for what this stage adds",
            f"send at most {room}",
        )
    if len(envelope.trail) >= limits.trail_entries_max:
        _refuse(
            "trail",
            f"has {len(envelope.trail)} entries, and no room for this stage",
            f"a chain has at most {limits.trail_entries_max} stages: look for a ring",
        )


def encode_envelope(envelope: Envelope) -> bytes:
    """The body that carries an envelope: the same envelope, the same bytes.

    Members of `data` are sorted. Raises ValueError when `data` cannot be said in JSON or the
    deadline has no date.
    """
    deadline = None if envelope.deadline is None else format_instant(envelope.deadline)
    return encode_object(
        _Sent(
            saga_id=envelope.saga_id,
            protocol=envelope.protocol,
            deadline=deadline,
            data=envelope.data,
            trail=envelope.trail,
        ),
        envelope.data,
    )


def payload_hash(envelope: Envelope) -> str:
    """The hash of the payload, as SHA-256 in hexadecimal: of the saga id and the data.

    Not the deadline or the trail: a retry may carry fresh ones. Neither the order of members
    counts nor how a number is written: 1, 1.0 and 1e0 are one number.
    """
    # A saga id holds no line break, so that no other pair gives the same bytes.
    hashed = hashlib.sha256(envelope.saga_id.encode() + b"\n")
    hashed.update(encode_canonical(envelope.data))
    return hashed.hexdigest()


def check_saga_id(saga_id: str, limits: Limits = DEFAULT_LIMITS) -> str:
    """The id itself when it is one. Raises WireError (422) otherwise."""
    if len(saga_id) > limits.saga_id_chars_max or not SAGA_ID_RE.fullmatch(saga_id):
        _refuse(
            "saga_id",
            f"is {quoted(saga_id)}",
            f"send 1 to {limits.saga_id_chars_max} characters of A-Z a-z 0-9 . _ ~ : -"
            ' (not "." or ".."); a UUIDv7 is best',
        )
    return saga_id


def path_of_saga(saga_id: str) -> str:
    """The path of a saga at any service of the chain. No character that an id has is escaped."""
    return f"/sagas/{quote(saga_id, safe='~:')}"


def new_saga_id() -> str:
    """A fresh UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, 74 bits of chance."""
    milliseconds = time.time_ns() // 1_000_000
    chance = int.from_bytes(os.urandom(10))
    number = (milliseconds & (2**48 - 1)) << 80 | chance
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=number))


def format_instant(seconds: float) -> str:
    """An instant as RFC 3339 in UTC with milliseconds. Raises ValueError when it has no date."""
    try:
        whole, milliseconds = divmod(round(seconds * 1000), 1000)
        return f"{_format_second(whole)}.{milliseconds:03d}Z"
    except OverflowError:
        raise ValueError(f"no date for {seconds!r} seconds since 1970") from None


def optional_instant(seconds: float | None) -> str | None:
    """An instant as `format_instant` has it; None where there is none."""
    return None if seconds is None else format_instant(seconds)


@lru_cache(maxsize=64)
def _format_second(seconds: int) -> str:
    """Remembered: all instants of a saga lie within a few seconds, and those of others too."""
    return (_EPOCH + seconds * _SECOND).replace(tzinfo=None).isoformat(timespec="seconds")


def parse_instant(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 instant, to the microsecond. Raises ValueError.

    The offset is required. Digits behind the microsecond are dropped. An instant that cannot be
    said again is none: an offset, or rounding, may lead out of the calendar.
    """
    instant = (_datetime_of(text) - _EPOCH).total_seconds()
    format_instant(instant)
    return instant


def _datetime_of(text: str) -> datetime:
    if len(text) > _INSTANT_CHARS_MAX or not _INSTANT.fullmatch(text):
        raise ValueError("not an RFC 3339 date and time with an offset")
    return datetime.fromisoformat(text.upper())


def refuse_unknown(
    given: Mapping[str, Any], known: frozenset[str], place: str, hint: str | None = None
) -> None:
    """Raise WireError (422) that names the members which the protocol does not."""
    if given.keys() <= known:
        return
    name = min(given.keys() - known)
    raise WireError(
        422,
        "Unknown member",
        f"{place} has a member {quoted(name)} that the protocol does not name",
        hint=hint,
    )


def _checked_saga_id(value: object, limits: Limits) -> str:
    if type(value) is not str:
        _refuse("saga_id", "is not a string")
    return check_saga_id(value, limits)


def _deadline(value: object) -> float | None:
    if value is None:
        return None
    if type(value) is not str:
        _refuse("deadline", "is not a string")
    try:
        instant = round(parse_instant(value), 3)
        format_instant(instant)  # what cannot be handed on is not taken
        return instant
    except ValueError as error:
        _refuse("deadline", f"is wrong: {error}", "send for example 2026-11-23T02:30:00Z")


def _trail(value: object, limits: Limits) -> tuple[TrailEntry, ...]:
    if type(value) is not list:
        _refuse("trail", "is not an array")
    if len(value) > limits.trail_entries_max:
        _refuse(
            "trail",
            f"has {len(value)} entries",
            f"a chain has at most {limits.trail_entries_max} stages: look for a ring",
        )
    return tuple(_trail_entry(item, number, limits) for number, item in enumerate(value))


def _trail_entry(value: object, number: int, limits: Limits) -> TrailEntry:
    place = f"trail[{number}]"
    if type(value) is not dict:
        _refuse(place, "is not an object")
    refuse_unknown(value, _TRAIL_MEMBERS, place)
    stage, at = value.get("stage"), value.get("at")
    if type(stage) is not str or not _is_stage_name(stage, limits):
        _refuse(f"{place}.stage", "is not the name of a stage", f"send {STAGE_NAME_RE.pattern}")
    if type(at) is not str:
        _refuse(f"{place}.at", "is not a string")
    try:
        _datetime_of(at)
    except ValueError as error:
        _refuse(f"{place}.at", f"is wrong: {error}", "send for example 2026-11-23T02:29:58.120Z")
    return TrailEntry(stage=stage, at=at)


def _is_stage_name(text: str, limits: Limits) -> bool:
    return len(text) <= limits.stage_name_chars_max and STAGE_NAME_RE.fullmatch(text) is not None


def _refuse(member: str, state: str, hint: str | None = None) -> NoReturn:
    raise WireError(422, "Envelope not accepted", f"{member} {state}", hint=hint)
