"""Durations as people write and read them: 40 s, 3 min, 2.5 h, 4 d."""

from __future__ import annotations

from typing import Final

UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
"""Seconds by unit."""


def duration(seconds: float) -> str:
    """A number of seconds in the largest unit of which it has one, whole below a minute.

    An instant in the past is no time away.
    """
    for unit in ("d", "h", "min"):
        if seconds >= UNITS[unit]:
            return f"{seconds / UNITS[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{max(0.0, seconds):.0f} s"
