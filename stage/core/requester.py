"""The relation of a caller to a saga, by which it may or may not ask to compensate it."""

from __future__ import annotations

from enum import StrEnum


class Requester(StrEnum):
    """The kind of caller that asks. Its name stands beside it."""

    CLAIMED = "claimed"
    """Nobody was asked to prove a name: the name alone says what it is."""
    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    OPERATOR = "operator"
