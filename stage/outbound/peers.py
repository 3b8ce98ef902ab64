"""The peers of a stage over HTTP, with today's protocol between neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stage.outbound.client import PeerClient
from stage.outbound.external import HttpExternal
from stage.outbound.neighbours.chain_v1 import ChainV1
from stage.ports.peers import PeerLimits, Peers


def http_peers(
    client: PeerClient,
    *,
    externals: Mapping[str, str],
    downstreams: Mapping[str, str],
    upstreams: Mapping[str, str],
    limits: Mapping[str, PeerLimits] = MappingProxyType({}),
) -> Peers:
    """Everything that `client` may send to: base URLs by configured name, limits as in `Peers`."""
    return Peers(
        external=HttpExternal(client, externals),
        neighbours=ChainV1(client, downstreams=downstreams, upstreams=upstreams),
        limits=limits,
    )
