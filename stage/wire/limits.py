"""Every bound of the protocol, each with a name and a default (rule 26)."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much of anything is read from a neighbour. Anything larger is refused."""

    body_bytes_max: int = 1_048_576
    command_bytes_max: int = 32_768
    """A request to compensate: its members have limits of their own, and are small."""
    adds_bytes_max: int = 65_536
    """The largest output of one stage."""
    values_max: int = 20_000
    """Members and items in one body: each costs time in the event loop, however small it is."""
    adds_values_max: int = 2_000
    """Members and items in the output of one stage."""
    exponents_max: int = 1_000
    """Numbers in one body with an exponent of two digits or more."""
    depth_max: int = 32
    """The outermost object counts as one."""
    string_chars_max: int = 65_536
    """Member names are strings too."""
    trail_entries_max: int = 64
    reason_chars_max: int = 1_000
    requested_by_chars_max: int = 128
    stage_name_chars_max: int = 48
    saga_id_chars_max: int = 128


DEFAULT_LIMITS = Limits()
VALUE_BYTES_MIN = 2
"""A member or an item has one character at least, and a comma behind it or a bracket."""
