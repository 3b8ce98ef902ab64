"""The members of a payload that the author declared to show to operators (rule 38)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from stage.engine.saga.terms import member_at
from stage.engine.saga.words import Redact, readable
from stage.ports.engine import Shown

SHOWN_CHARS_MAX: Final = 200
"""A longer text is shown up to here."""
SHOWN_ENVELOPE_BYTES_MAX: Final = 65_536
"""A larger envelope is not read for it: a list reads many of them."""


def shown_in(data: Mapping[str, Any], shows: Mapping[str, str], redact: Redact) -> dict[str, Shown]:
    """The members at the paths of `shows`, by its names; members that are no scalar are left out.

    Texts go through the author's `redact`, as all words of others that operators see.
    """
    found: dict[str, Shown] = {}
    for name, path in shows.items():
        value = member_at(data, path)
        if isinstance(value, str):
            found[name] = readable(redact, value)[:SHOWN_CHARS_MAX]
        elif isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            found[name] = value
    return found
