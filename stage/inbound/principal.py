"""The principal of a request: its name, how it came to it, and what it counts as (rule 36)."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from stage.ports.operator import Role


class Who(StrEnum):
    """A kind of caller, as the table of routes names it. Every caller is ANYONE as well."""

    ANYONE = "anyone"
    PLATFORM = "platform"
    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Kind(StrEnum):
    """How a principal came to its name."""

    STRANGER = "stranger"
    """The caller has no name: it showed nothing, or nothing that is known."""
    PLATFORM = "platform"
    """The caller has no name, and asks at the admin port."""
    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    OPERATOR = "operator"
    CLAIMED = "claimed"
    """Callers are not asked for names (`auth = "none"`): what a request claims is believed."""


NEIGHBOURS: Final = frozenset({Kind.UPSTREAM, Kind.DOWNSTREAM})

_ROLES: Final = {
    Role.VIEWER: frozenset({Who.ANYONE, Who.PLATFORM, Who.VIEWER}),
    Role.OPERATOR: frozenset({Who.ANYONE, Who.PLATFORM, Who.VIEWER, Who.OPERATOR}),
    Role.ADMIN: frozenset({Who.ANYONE, Who.PLATFORM, Who.VIEWER, Who.OPERATOR, Who.ADMIN}),
}
_KINDS: Final = {
    Kind.STRANGER: frozenset({Who.ANYONE}),
    Kind.PLATFORM: frozenset({Who.ANYONE, Who.PLATFORM}),
    Kind.UPSTREAM: frozenset({Who.ANYONE, Who.UPSTREAM}),
    Kind.DOWNSTREAM: frozenset({Who.ANYONE, Who.DOWNSTREAM}),
    Kind.CLAIMED: frozenset(Who),
}


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """One caller. `name` is that of the configuration, or of the user of this machine.

    `formerly` has the names that it had before: of a saga that began under one of them, it speaks
    under that one (rule 32).
    """

    kind: Kind
    name: str = ""
    role: Role | None = None
    formerly: tuple[str, ...] = ()
    hint: str = ""
    """How it comes to a name, where a token alone would not do."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which it may speak."""
        return (self.name, *self.formerly)

    @property
    def who(self) -> frozenset[Who]:
        """The kinds of caller that it counts as in the table of routes."""
        return _KINDS[self.kind] if self.role is None else _ROLES[self.role]

    @property
    def known(self) -> bool:
        """Whether its trace is joined: nobody else may write into ours, or switch sampling off."""
        return self.kind not in (Kind.STRANGER, Kind.PLATFORM)


STRANGER: Final = Principal(kind=Kind.STRANGER)
PLATFORM: Final = Principal(kind=Kind.PLATFORM)
CLAIMED: Final = Principal(kind=Kind.CLAIMED)
ELSEWHERE: Final = Principal(
    kind=Kind.STRANGER,
    hint="auth is none, which believes callers of this machine alone: ask at 127.0.0.1, or give"
    " each caller a token (`stage keys new`)",
)
"""A caller from elsewhere, where callers of this machine are not asked for names."""


def local(user: str) -> Principal:
    """The user of this machine that asks through the socket beside the database."""
    return Principal(kind=Kind.OPERATOR, name=user, role=Role.ADMIN)
