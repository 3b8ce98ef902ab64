"""The story of a simulated world, in virtual time, as a person reads it."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

from stage.core.describe import event_in_words
from stage.core.event_table import public_members
from stage.core.events import Event, encode_event, name_of

VIOLATION = "VIOLATION"
"""The speaker of a line that says that something does not hold."""
CHARS_MAX = 160
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
        """The line in words. Events are put into words only when somebody reads."""
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
        digest = sha256()
        for line in self.lines:
            what = line.what.encode() if isinstance(line.what, str) else encode_event(line.what)
            digest.update(f"{line.at!r} {line.saga} {line.who} ".encode() + what + b"\n")
        return digest.hexdigest()

    def history(self, saga: str) -> list[str]:
        """The lines of one saga until something is wrong, with those that concern all sagas."""
        own = [line.at for line in self.lines if line.saga == saga]
        if not own:
            return []
        first, last = own[0], own[-1]
        wrong = next((n for n, line in enumerate(self.lines, 1) if line.who == VIOLATION), None)
        shown = [
            line
            for line in self.lines[:wrong]
            if line.saga == saga or (not line.saga and first <= line.at <= last)
        ]
        width = max(len(line.who) for line in shown)
        text = [f"{line.at:9.3f}  {line.who:<{width}}  {line.text}" for line in shown]
        if len(text) > LINES_MAX:
            half = LINES_MAX // 2
            left_out = f"           ... {len(text) - 2 * half} lines left out ..."
            text = [*text[:half], left_out, *text[-half:]]
        return text


def describe(event: Event) -> str:
    """One line for an event of the journal, such as `journal: charge: started, attempt 2`."""
    return f"journal: {event_in_words(name_of(event), public_members(event))}"[:CHARS_MAX]
