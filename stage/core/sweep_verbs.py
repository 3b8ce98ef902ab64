"""The verbs of a sweep and its fastest rate, which the command line names before it loads more."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

SWEEP_RATE_MAX: Final = 200.0
"""Sagas a second."""


class SweepVerb(StrEnum):
    """The verbs that can be done to many. To settle is a claim about one."""

    RETRY = "retry"
    COMPENSATE = "compensate"
    RESOLVE = "resolve"
    ABANDON = "abandon"
    FORGET = "forget"
    ERASE = "erase"
    PURGE = "purge"
