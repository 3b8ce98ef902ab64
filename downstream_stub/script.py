"""How this neighbour behaves, and misbehaves: scripts, for all sagas or for some of them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal

import msgspec


class ScriptName(StrEnum):
    """What happens to a saga. The last two strike its compensation, the others its execution."""

    ACCEPT = "accept"
    """Do the work, answer 200."""
    REFUSE = "refuse"
    """Answer 409; nothing happened."""
    SLOW = "slow"
    """Take `seconds` over it."""
    HANG = "hang"
    """Never answer, and do nothing, until the client goes away."""
    FLAKY = "flaky"
    """Answer 503 with Retry-After (`seconds`) twice, then as accept."""
    CRASH_ANSWER = "crash-answer"
    """Do the work and break the connection; a repeat is answered."""
    LATE_FAILURE = "late-failure"
    """Answer (200, or 202 by `answer`), compensate after `seconds`, and tell upstream."""
    COMPENSATE_FAILS = "compensate-fails"
    """Do the work, and answer a compensation 409: it stands."""
    COMPENSATE_FLAKY = "compensate-flaky"
    """Do the work, and answer a compensation 503 twice, then 200."""


SECONDS = {ScriptName.SLOW: 1.0, ScriptName.LATE_FAILURE: 0.3, ScriptName.FLAKY: 1.0}
SECONDS_MAX = 3600


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /script`. It stands until replaced by one of the same `match`."""

    script: ScriptName
    seconds: Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)] | None = None
    """None: what SECONDS says."""
    answer: Literal[200, 202] = 200
    """What late-failure answers at first."""
    match: str = ""
    """Only sagas whose id begins with this. Of several scripts the longest match holds."""

    @property
    def delay_seconds(self) -> float:
        """How long this script waits."""
        return SECONDS.get(self.script, 0.0) if self.seconds is None else self.seconds


class Scripts:
    """The scripts that stand, one a match."""

    def __init__(self, script: Script) -> None:
        self._by_match = {"": Script(ScriptName.ACCEPT), script.match: script}

    def put(self, script: Script) -> None:
        """Let a script stand for the sagas it matches, those under way too."""
        self._by_match[script.match] = script

    def meets(self, saga_id: str) -> Script:
        """The script that holds for a saga."""
        matching = (match for match in self._by_match if saga_id.startswith(match))
        return self._by_match[max(matching, key=len)]

    def __iter__(self) -> Iterator[Script]:
        return iter(self._by_match.values())
