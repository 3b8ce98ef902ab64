"""The scripts of the neighbour downstream: how it executes and compensates."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from stage.neighbours.shared.scripts import Scripts


class ScriptName(StrEnum):
    """How a saga is handled. The last two affect its compensation, the others its execution."""

    ACCEPT = "accept"
    """Do the work, answer 200."""
    REFUSE = "refuse"
    """Answer 409; nothing happened."""
    SLOW = "slow"
    """Work for `seconds`, then as accept."""
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
    """None: the value in SECONDS."""
    answer: Literal[200, 202] = 200
    """The first answer of `late-failure`."""
    match: str = ""
    """Only sagas whose id begins with this. Of several scripts the longest match holds."""

    @property
    def delay_seconds(self) -> float:
        """How long this script waits, in seconds."""
        return SECONDS.get(self.script, 0.0) if self.seconds is None else self.seconds


def scripts_with(script: Script | None) -> Scripts[Script]:
    """Every saga is accepted, except those for which `script` holds."""
    default = Script(ScriptName.ACCEPT)
    return Scripts(default, default if script is None else script)
