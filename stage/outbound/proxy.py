"""A proxy of the operator's network, behind which a peer is reached."""

from __future__ import annotations

from typing import NamedTuple


class Proxy(NamedTuple):
    """A tunnel is asked for there (CONNECT), and TLS begins behind it. Its `repr` has no secret."""

    url: str
    """http://HOST:PORT"""
    authorization: str = ""
    """The header Proxy-Authorization; empty: none."""

    def __repr__(self) -> str:
        return f"Proxy({self.url})"
