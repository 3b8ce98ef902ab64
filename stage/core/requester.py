"""The relation of a caller to a saga, by which it may or may not ask to compensate it."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import Final

OPENER_CHARS: Final = 16


class Requester(StrEnum):
    """The kind of caller that asks. Its name stands beside it."""

    CLAIMED = "claimed"
    """Nobody was asked to prove a name: the name alone says what it is."""
    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    OPERATOR = "operator"


def opener_hash(saga_id: str, name: str) -> str:
    """The hash of the name of the upstream that opened a saga; empty where it had no name.

    It is kept when all contents of the saga are dropped: it proves the opener, and names nobody.
    """
    if not name:
        return ""
    return sha256(f"{saga_id}\n{name}".encode()).hexdigest()[:OPENER_CHARS]
