"""Pauses: an operator holds what goes to one peer, or what comes in, until an instant.

A pause holds and refuses nothing that was accepted: what is held leaves when the pause ends, or
turns back when its own deadline is over.

Where several files keep the pauses of one stage, the newest word on a target and way counts. So the
end of a pause is a word too, and is kept in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

INTAKE: Final = "intake"
"""The target of a pause of new sagas. They are refused for now; all others go on."""
PAUSE_SECONDS_MAX: Final = 7 * 86_400.0
"""A pause that nobody ends, ends then: what is held has a patience, and its neighbours wait."""


class Way(StrEnum):
    """The direction of an attempt: towards the end of the saga, or back."""

    FORWARD = "forward"
    BACKWARD = "backward"
    """An undo, and the message of a late failure."""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """An order of an operator to hold something. `target` is a peer by kind and name, or INTAKE.

    Without a `way` both ways are held. `until` is the instant at which the pause ends by itself.
    """

    target: str
    way: Way | None = None
    at: float
    until: float
    actor: str
    reason: str

    @property
    def ways(self) -> frozenset[Way]:
        """The ways that the pause holds."""
        return frozenset(Way) if self.way is None else frozenset({self.way})


def ended(pause: Pause, at: float, actor: str, reason: str) -> Pause:
    """The word that a pause was ended: it is in force at no instant, and newer than the pause."""
    return behind(replace(pause, at=at, until=0.0, actor=actor, reason=reason), [pause])


def behind(word: Pause, known: Iterable[Pause]) -> Pause:
    """The word, newer than those that are known on its target, also where a clock was set back."""
    last = newest(known).get((word.target, word.way))
    if last is None or word.at > last.at:
        return word
    return replace(word, at=math.nextafter(last.at, math.inf))


def newest(pauses: Iterable[Pause]) -> dict[tuple[str, Way | None], Pause]:
    """The newest word on each target and way: a pause, or that it was ended."""
    found: dict[tuple[str, Way | None], Pause] = {}
    for pause in pauses:
        known = found.setdefault((pause.target, pause.way), pause)
        if pause.at > known.at:
            found[pause.target, pause.way] = pause
    return found


def newer(others: Iterable[Pause], own: Iterable[Pause]) -> list[Pause]:
    """The words of others that are newer than one's own on the same target and way."""
    known = newest(own)
    return [
        word for key, word in newest(others).items() if key not in known or word.at > known[key].at
    ]


def in_force(pauses: Iterable[Pause], now: float) -> tuple[Pause, ...]:
    """The pauses that have not ended."""
    return tuple(pause for pause in pauses if pause.until > now)


def held_peers(pauses: Iterable[Pause]) -> dict[str, frozenset[Way]]:
    """The ways that are held, by peer."""
    held: dict[str, frozenset[Way]] = {}
    for pause in pauses:
        if pause.target != INTAKE:
            held[pause.target] = held.get(pause.target, frozenset()) | pause.ways
    return held


def intake(pauses: Iterable[Pause]) -> Pause | None:
    """The pause of new sagas, if there is one."""
    return next((pause for pause in pauses if pause.target == INTAKE), None)
