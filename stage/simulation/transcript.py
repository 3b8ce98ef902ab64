"""What happened, in virtual time, as a person reads it."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from stage.core.events import Event, encode_event, name_of

LINES_MAX = 400
"""Lines of one saga that are shown at most; the middle is left out."""


class Line(NamedTuple):
    """One thing that happened; an empty `saga` concerns all of them."""

    at: float
    saga: str
    who: str
    what: str | Event

    @property
    def text(self) -> str:
        """What happened, in one line. Events are put into words only when somebody reads."""
        return self.what if isinstance(self.what, str) else describe(self.what)


class Transcript:
    """The lines of one simulated world, in order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def tell(self, at: float, saga: str, who: str, what: str | Event) -> None:
        """Write down one thing."""
        self.lines.append(Line(at, saga, who, what))

    def digest(self) -> str:
        """A hash of everything that happened, to the last bit of every event."""
        told = sha256()
        for line in self.lines:
            what = line.what.encode() if isinstance(line.what, str) else encode_event(line.what)
            told.update(f"{line.at!r} {line.saga} {line.who} ".encode() + what + b"\n")
        return told.hexdigest()

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
        told = [f"{line.at:9.3f}  {line.who:<{width}}  {line.text}" for line in shown]
        if len(told) > LINES_MAX:
            half = LINES_MAX // 2
            left_out = f"           ... {len(told) - 2 * half} lines left out ..."
            told = [*told[:half], left_out, *told[-half:]]
        return told


def describe(event: Event) -> str:
    """One line for an event of the journal."""
    parts = [
        str(getattr(event, member))
        for member in ("step", "attempt", "epoch", "requested_by", "reason", "stands")
        if getattr(event, member, "")
    ]
    return f"journal: {name_of(event)} {' '.join(parts)}".rstrip()[:160]
