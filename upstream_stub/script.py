"""How this neighbour behaves, and misbehaves, when it is asked to compensate."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec


class ScriptName(StrEnum):
    """What a request to compensate meets."""

    ACCEPT = "accept"
    AWAY = "away"
    """Always 503."""
    FLAKY = "flaky"
    """503 twice for each saga, then as accept."""


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /script`. It stands until replaced by one of the same `match`."""

    script: ScriptName
    match: str = ""
    """Only sagas whose id begins with this. Of several scripts the longest match holds."""


class Scripts:
    """The scripts that stand, one a match."""

    def __init__(self, script: Script) -> None:
        self._by_match = {"": Script(ScriptName.ACCEPT), script.match: script}

    def put(self, script: Script) -> None:
        """Let a script stand for the sagas it matches, those under way too."""
        self._by_match[script.match] = script

    def meets(self, saga_id: str) -> ScriptName:
        """The script that holds for a saga."""
        matching = (match for match in self._by_match if saga_id.startswith(match))
        return self._by_match[max(matching, key=len)].script

    def __iter__(self) -> Iterator[Script]:
        return iter(self._by_match.values())
