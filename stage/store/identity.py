"""The common part of the identity of a database, on a server or in a file (rule 33)."""

from __future__ import annotations

import uuid
from typing import Final, Protocol

import msgspec

from stage.core.errors import ConfigurationError
from stage.ports.identity import Identity
from stage.ports.store import Row

MEMBERS: Final = (
    "id",
    "stage",
    "born_at",
    "generation",
    "release",
    "restored_as_of",
    "restored_at",
    "released_at",
)
"""The columns of the identity, in order."""


class Wanted(Protocol):
    """A database that is asked for."""

    @property
    def stage(self) -> str:
        """Whose it has to be; empty: that of any stage."""
        ...

    @property
    def release(self) -> str:
        """The release that opens it."""
        ...

    @property
    def former(self) -> tuple[str, ...]:
        """Names that the stage had before: a database keeps the one that it was made under."""
        ...


def identity_of(row: Row) -> Identity:
    """The identity in the columns `MEMBERS`."""
    return Identity(**dict(zip(MEMBERS, row, strict=True)))


def values(identity: Identity) -> list[object]:
    """The columns of an identity."""
    return [getattr(identity, member) for member in MEMBERS]


def new_identity(wanted: Wanted, now: float, born_at: float | None) -> Identity:
    """The identity of a database whose first migration was applied at `born_at`, where known."""
    return Identity(
        id=uuid.uuid4().hex,
        stage=wanted.stage,
        born_at=min(now, born_at or now),
        release=wanted.release,
    )


def named(found: Identity, wanted: Wanted) -> Identity:
    """The identity with the names that it takes from the stage that opens it."""
    return msgspec.structs.replace(
        found, stage=found.stage or wanted.stage, release=wanted.release or found.release
    )


def refuse_owner(found: Identity | None, wanted: Wanted, *, place: object, fix: str) -> None:
    """Raise ConfigurationError for the database of another stage. `fix`: to give in its place."""
    names = ("", wanted.stage, *wanted.former)
    if found is not None and wanted.stage and found.stage not in names:
        raise ConfigurationError(
            f"the database {place} is that of stage {found.stage!r}, and this is stage"
            f" {wanted.stage!r}: give this one {fix}, or declare that stage as"
            " supersedes= where it is this one's former name"
        )
