"""Which database this is: whose, since when, and which line of its history (rule 33)."""

from __future__ import annotations

import msgspec


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a database. Instants in seconds since the epoch."""

    id: str
    """32 hex digits, drawn when the database was made. A copy has the same."""
    stage: str
    """The name of the stage that owns it; empty for a database that belongs to no one yet."""
    born_at: float
    generation: int = 1
    """Grows with each `stage db restored`: sagas of the generation before may be missing."""
    release: str = ""
    """The last release of this package that wrote to it."""
    restored_as_of: float | None = None
    """The age of the backup that the present generation began with, as the operator gave it."""
    restored_at: float | None = None
    released_at: float | None = None
    """When an operator released the present generation, after the neighbours were asked."""

    @property
    def awaits_release(self) -> bool:
        """True from `stage db restored` to the release: a saga that is not here may be lost."""
        return self.restored_at is not None and self.released_at is None

    @property
    def lost_before(self) -> float:
        """A saga that was sent before this instant may be missing (rule 33).

        Before a release every saga may be. After it none is: the operator has vouched for that.
        """
        if self.awaits_release:
            return float("inf")
        return self.born_at if self.released_at is None else float("-inf")
