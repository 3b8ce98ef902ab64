"""A sweep: one verb of an operator, done to many sagas, one after the other.

Its list is made when it begins, so that it is for the sagas that its dry run showed and no others.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.sweep_verbs import SweepVerb

SWEEP_SAGAS_MAX: Final = 20_000

SCRUBBED: Final = "scrubbed"
"""The act of the audit that tells that no bytes are left of what a stopped sweep erased."""


class SweepState(StrEnum):
    """Whether a sweep goes on."""

    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"


class SweepEnd(StrEnum):
    """Where a sweep is with one saga."""

    PENDING = "pending"
    DONE = "done"
    REFUSED = "refused"
    """The verb was not allowed as the saga stood then."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep as it stands. `where` are the words that named its sagas, for people.

    `rate_per_second` is the number of sagas a second. The counts are of sagas, by their SweepEnd.
    """

    number: int = 0
    at: float
    actor: str
    verb: SweepVerb
    reason: str
    step: str = ""
    where: str = ""
    rate_per_second: float
    state: SweepState = SweepState.RUNNING
    pending: int = 0
    done: int = 0
    refused: int = 0

    @property
    def sagas(self) -> int:
        """The number of sagas that it is for."""
        return self.pending + self.done + self.refused

    @property
    def why(self) -> str:
        """The reason that each saga and the audit keep, which tells this sweep from all others."""
        return f"{self.reason} (sweep {self.number})"


def key_of(sweep: Sweep, saga_id: str) -> ActKey:
    """The key of a sweep for one of its sagas. A space is in no key of a client.

    Its number comes again where a database is restored, its instant does not.
    """
    return ActKey(key=f"sweep {sweep.number} {sweep.at} {saga_id}", digest=sweep.why)


def former_key_of(sweep: Sweep, saga_id: str) -> ActKey:
    """Its key in a release that left the instant out, and may have begun the sweep."""
    return ActKey(key=f"sweep {sweep.number} {saga_id}", digest=sweep.why)


def verb_of(sweep: Sweep, saga_id: str, at: float) -> e.Verb | None:
    """The event that it asks of a saga, under a key by which that saga knows it again.

    A process that was frozen goes on with its list when another one has long acted on it. None for
    a request to compensate, which is no verb, and to erase or purge, which leave no journal.
    """
    actor, why, step = sweep.actor, sweep.why, sweep.step
    key = key_of(sweep, saga_id)
    match sweep.verb:
        case SweepVerb.RETRY:
            return e.Retried(at=at, actor=actor, why=why, act_key=key)
        case SweepVerb.RESOLVE:
            return e.Resolved(at=at, actor=actor, why=why, step=step, act_key=key)
        case SweepVerb.ABANDON:
            return e.Abandoned(at=at, actor=actor, why=why, step=step, act_key=key)
        case SweepVerb.FORGET:
            return e.Forgotten(at=at, actor=actor, why=why, act_key=key)
        case SweepVerb.COMPENSATE | SweepVerb.ERASE | SweepVerb.PURGE:
            return None
