"""The part of a limit that one caller of several may take (rule 37)."""

from __future__ import annotations

from typing import Final

import msgspec

STRANGERS = ""
"""The caller of every name that is not configured: together they are one."""
SHARE = 0.5
"""The part of a limit for one caller of several, and for all that are not configured."""


class Shares(msgspec.Struct, frozen=True):
    """The named callers. The only named caller may take all of a limit; so may strangers, where
    no caller has a name."""

    names: frozenset[str] = frozenset()
    renamed: dict[str, str] = {}
    """The name of today by each name of before: a caller that was renamed has one share."""

    def caller(self, named: str) -> str:
        """The caller that a name stands for: itself, or STRANGERS."""
        today = self.renamed.get(named, named)
        return today if today in self.names else STRANGERS

    def most(self, caller: str, limit: int) -> int:
        """The part of a limit that the caller may take, at least 1."""
        others = len(self.names) - (caller in self.names)
        return max(1, int(limit * SHARE)) if others else limit


NOBODY: Final = Shares()
"""No caller has a name."""
