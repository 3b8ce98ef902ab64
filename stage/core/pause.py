"""Pauses: an operator holds what goes to one peer, or what comes in, until an instant.

A pause holds and refuses nothing that was accepted: what is held leaves when the pause ends, or
turns back when its own deadline is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

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
