"""Ownership: which process may run a saga, where several share one database.

A *replica* is one process with its registration. The law, for every store
(`tests/unit/store/test_ownership.py` holds each one to it):

1. A saga that needs a run, now or at an instant, has at most one owner. A saga that needs none
   has no owner.
2. `Unit.insert` and `Unit.save` make the writer the owner; so does `Unit.take` for a saga that
   needs a run. A unit that is rolled back changes no owner.
3. An owner is alive until its lease is over and another replica has noticed. From then on the
   registration is dead for good: it is never renewed, and its number is never given out again.
4. `Unit.take` and `Unit.save` raise for a saga that a live other replica owns (HeldElsewhere,
   StaleEpoch). A saga that a dead replica owned may be taken by any other, at once.
5. Mail is for one run: it is gone when the saga changes its owner, loses it, or gets another epoch.
   A sender therefore answers for nothing before it sees the event in the journal, and an owner that
   gets the saga back does not do what its sender has done elsewhere.

A store that one process has for itself keeps all of this with `store.sole_owner.SoleOwner`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from stage.core.errors import StageError
from stage.core.events import Event
from stage.core.steps import VERSION_MAX


class HeldElsewhere(StageError):
    """A live other replica owns the saga: wait for it or write to it. This is no defect."""


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """An event that another replica wants journaled by the owner of the saga."""

    number: int
    saga_id: str
    event: Event
    epoch: int
    """The epoch that the saga had when it was left."""


class Posted(msgspec.Struct, frozen=True, kw_only=True):
    """Mail that was left: its number, and the epoch of the run for which it is."""

    number: int
    epoch: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The part of one replica in what all of them have together, as of its last renewal."""

    replicas: int = 1
    """How many have a valid lease, this one among them."""
    first: bool = True
    """True for the oldest of them, which reports what is the database's and not a replica's."""


class Ownership(Protocol):
    """The sagas of one replica. Used from one event loop. Any method may raise StoreUnavailable."""

    @property
    def sure(self) -> bool:
        """True while no other process can write to what this replica owns: its lease is valid."""
        ...

    async def assured(self) -> None:
        """Return once `sure` holds: the last look before a request leaves."""
        ...

    @property
    def renew_seconds(self) -> float | None:
        """How often `renew` has to be called; None where there is no lease and no mail."""
        ...

    async def renew(self) -> bool:
        """Extend the lease. False: this replica was declared dead, and owns nothing any more.

        It has a new registration then, under which it may go on.
        """
        ...

    @property
    def time(self) -> float | None:
        """Seconds since the epoch by the clock that all replicas go by (rule 34). It never waits.

        None where no other process has the database, and before the first registration.
        """
        ...

    @property
    def share(self) -> Share:
        """The part of this replica in limits and reports. It never waits for anything."""
        ...

    async def claim(self, now: float, limit: int, version: int = VERSION_MAX) -> dict[str, int]:
        """Sagas that need a run and have no live owner; from now on they are ours.

        By the id of each stands the number of its entries. Claimed are the sagas that are due by
        `now`, the longest due first; those due at an instant that only a wrong clock can have
        written (`core.age.is_due`); and all whose owner is dead: a saga that ran when its process
        ended is due at once. A saga that a newer `version` of the stage accepted is left to it
        (rule 32).
        """
        ...

    async def release(self, sagas: Mapping[str, int | None]) -> None:
        """Give up these sagas; any replica may claim them when they are due.

        By the id of each stands the number of entries with which it came to rest. A saga that has
        another number by now runs here again, and stays ours, as does one that a unit has at that
        moment. None is for a saga that this release cannot run, which is given up in any case.
        """
        ...

    async def leave(self) -> None:
        """Give up everything: what this replica owned is due at once for the others."""
        ...

    async def changed(self, saga_id: str, length: int, until: float) -> bool:
        """Wait for what another replica does to a saga; True while a live other replica owns it.

        Returns when the saga has another number of entries than `length`, when no live other
        replica owns it, and at the latest at `until`, an instant of the event loop's clock.
        """
        ...

    async def post(self, saga_id: str, event: Event) -> Posted | None:
        """Leave an event for the owner of a saga, in its present run.

        None: it has no live other owner; take it.
        """
        ...

    async def unreceived(self, number: int) -> bool:
        """Whether that mail is still there. The owner takes it away as it journals its event.

        It does so too when it leaves the event out. Mail for a run that is over may be gone.
        """
        ...

    async def mail(self) -> list[Mail]:
        """The events that others left for sagas of this replica, in order, until they are received.

        `Unit.received` marks them so, in the unit that journals them.
        """
        ...
