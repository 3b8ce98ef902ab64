"""The peers of a stage over HTTP, with today's protocol between neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from stage.outbound.client import PeerClient
from stage.outbound.credentials import Credentials
from stage.outbound.external import HttpExternal
from stage.outbound.neighbours.chain_v1 import ChainV1
from stage.ports.connection import Connection, connection_of, former_names
from stage.ports.peers import PeerLimits, Peers

Addresses = Mapping[str, str | Connection]


def http_peers(
    client: PeerClient,
    *,
    externals: Addresses,
    downstreams: Addresses,
    upstreams: Addresses,
    credentials: Credentials | None = None,
    limits: Mapping[str, PeerLimits] = MappingProxyType({}),
) -> Peers:
    """Everything that `client` may send to, by configured name; limits as in `Peers`."""
    shown = credentials or Credentials({}, {})
    renamed = former_names({**downstreams, **upstreams})
    return Peers(
        external=HttpExternal(client, _urls(externals), shown.externals),
        neighbours=ChainV1(
            client,
            downstreams=_urls(downstreams),
            upstreams=_urls(upstreams),
            credentials=shown.neighbours,
            renamed=renamed,
        ),
        limits=limits,
    )


def _urls(peers: Addresses) -> dict[str, str]:
    found = {name: connection_of(given).url for name, given in peers.items()}
    return {name: url for name, url in found.items() if url}
