"""The scripts of the neighbour upstream: how it answers a request to compensate."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stage.neighbours.shared.scripts import Scripts


class ScriptName(StrEnum):
    """How a request to compensate is answered."""

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


def scripts_with(script: Script | None) -> Scripts[Script]:
    """Every saga is accepted, except those for which `script` holds."""
    default = Script(ScriptName.ACCEPT)
    return Scripts(default, default if script is None else script)
