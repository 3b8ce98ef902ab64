"""The scripts of the neighbour upstream: how it answers a request to compensate."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from stage.neighbours.shared.scripts import Scripts


class ScriptName(StrEnum):
    """How a request to compensate is answered."""

    ACCEPT = "accept"
    AWAY = "away"
    """Always 503."""
    FLAKY = "flaky"
    """503 twice for each saga, then as accept."""
    TOMBSTONE = "tombstone"
    """As accept, and a saga that is not in the books is taken for one that was never seen.

    A head must not do that: see protocol 3.4. It fits where something else begins sagas in the name
    of this neighbour.
    """
    GATEWAY = "gateway"
    """A gateway answers in its place, with `code` and `body`, and nothing is compensated."""


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /script`. It stands until replaced by one of the same `match`."""

    script: ScriptName
    code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 504
    body: str = "<html><body>gateway</body></html>"
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How often a gateway answers for one saga; None: always."""
    match: str = ""
    """Only sagas whose id begins with this. Of several scripts the longest match holds."""


def scripts_with(script: Script | None) -> Scripts[Script]:
    """Every saga is accepted, except those for which `script` holds."""
    default = Script(ScriptName.ACCEPT)
    return Scripts(default, default if script is None else script)
