"""The peers of a stage: all that it talks to, each kind behind its own port."""

from __future__ import annotations

import msgspec

from stage.ports.external import External
from stage.ports.neighbour import Neighbours


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine sends to."""

    external: External
    neighbours: Neighbours
