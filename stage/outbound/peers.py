"""The peers of a stage over HTTP, with today's protocol between neighbours."""

from __future__ import annotations

from collections.abc import Mapping

from stage.outbound.client import PeerClient
from stage.outbound.external import HttpExternal
from stage.outbound.neighbours.chain_v1 import ChainV1
from stage.ports.peers import Peers


def http_peers(
    client: PeerClient,
    *,
    externals: Mapping[str, str],
    downstreams: Mapping[str, str],
    upstreams: Mapping[str, str],
) -> Peers:
    """Everything that `client` may send to: base URLs by configured name."""
    return Peers(
        external=HttpExternal(client, externals),
        neighbours=ChainV1(client, downstreams=downstreams, upstreams=upstreams),
    )
