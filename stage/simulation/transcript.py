"""What happened, in virtual time, as a person reads it."""

from __future__ import annotations

from typing import NamedTuple

LINES_MAX = 400
"""Lines of one saga that are shown at most; the middle is left out."""


class Line(NamedTuple):
    """One thing that happened; an empty `saga` concerns all of them."""

    at: float
    saga: str
    who: str
    what: str


class Transcript:
    """The lines of one simulated world, in order."""

    def __init__(self, now: object = None) -> None:
        self.lines: list[Line] = []

    def tell(self, at: float, saga: str, who: str, what: str) -> None:
        """Write down one thing."""
        self.lines.append(Line(at, saga, who, what))

    def history(self, saga: str) -> list[str]:
        """What concerns one saga: its own lines, and those of all while it lived."""
        own = [line.at for line in self.lines if line.saga == saga]
        if not own:
            return []
        first, last = own[0], own[-1]
        shown = [
            line
            for line in self.lines
            if line.saga == saga or (not line.saga and first <= line.at <= last)
        ]
        width = max(len(line.who) for line in shown)
        told = [f"{line.at:9.3f}  {line.who:<{width}}  {line.what}" for line in shown]
        if len(told) > LINES_MAX:
            half = LINES_MAX // 2
            left_out = f"           ... {len(told) - 2 * half} lines left out ..."
            told = [*told[:half], left_out, *told[-half:]]
        return told
