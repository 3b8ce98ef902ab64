"""The one place that names the caller of a request, for the shares of rule 37.

Until callers authenticate a name is a claim, and names that nobody configured are one caller.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

STRANGERS = ""
"""The caller of every name that is not configured."""


def caller_of(named: str, known: AbstractSet[str]) -> str:
    """The caller behind the name that a request gives: the last of its trail, or its asker."""
    return named if named in known else STRANGERS
