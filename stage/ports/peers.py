"""The peers of a stage: all that it talks to, each kind behind its own port."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stage.ports.external import External
from stage.ports.neighbour import Neighbours


class PeerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one peer gets (rule 29): attempts at the same time, and requests a second if set."""

    concurrency_max: int = 100
    rate_per_second: float | None = None


class PeerStanding(msgspec.Struct, frozen=True, kw_only=True):
    """How the way to one peer stands in this process. Instants in seconds; None for none yet.

    `under_way` attempts have a place, `queued` ones wait for it; `places` are fewer than
    `places_max` while the peer keeps failing. `failure` is how the last one failed.
    """

    peer: str
    under_way: int
    queued: int
    places: int
    places_max: int
    rate_per_second: float | None = None
    answered_at: float | None = None
    failed_at: float | None = None
    failure: str = ""


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The peers that an engine sends to, and how much each of them gets.

    `limits` are by kind and name, as in the configuration: `externals.psp`. A peer that is not
    there gets the limits of `PeerLimits()`.
    """

    external: External
    neighbours: Neighbours
    limits: Mapping[str, PeerLimits] = {}
