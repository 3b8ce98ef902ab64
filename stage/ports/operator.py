"""One configured operator: part of the configuration, so it imports nothing slow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """How far an operator may go. Each role may do what the one before it may."""

    VIEWER = "viewer"
    """Lists, shows, plans."""
    OPERATOR = "operator"
    """Also retries and compensates."""
    ADMIN = "admin"
    """Also settles, resolves and forgets: decides what is true of the world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A person or a program. `accept_file` names the hashes of the tokens that it may show, and
    `accept_san` the name in its certificate; one of them is set."""

    accept_file: str = ""
    accept_san: str = ""
    role: Role = Role.VIEWER
