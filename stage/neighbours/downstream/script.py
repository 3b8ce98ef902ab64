"""The scripts of the neighbour downstream: how it executes and compensates."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from stage.neighbours.shared.scripts import Scripts


class ScriptName(StrEnum):
    """How a saga is handled. The scripts named `compensate-` affect its compensation alone."""

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
    GATEWAY = "gateway"
    """Do the work, and let a gateway answer in its place: `code` and `body`."""
    COMPENSATE_GATEWAY = "compensate-gateway"
    """Do the work, and let a gateway answer a compensation, without having undone anything."""
    COMPENSATE_FLAKY = "compensate-flaky"
    """Do the work, and answer a compensation 503 twice, then 200."""


PAGE = "<html><body>gateway</body></html>"
SECONDS = {ScriptName.SLOW: 1.0, ScriptName.LATE_FAILURE: 0.3, ScriptName.FLAKY: 1.0}
SECONDS_MAX = 3600


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /script`. It stands until replaced by one of the same `match`."""

    script: ScriptName
    seconds: Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)] | None = None
    """None: the value in SECONDS."""
    answer: Literal[200, 202] = 200
    """The first answer of `late-failure`."""
    code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 504
    """The code of a gateway."""
    body: str = PAGE
    """The body of a gateway, which comes with the code."""
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How often a gateway answers for one saga; None: always."""
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
