"""The credentials of all peers, as the operator and the author have set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stage.authoring.declaration import StageDeclaration
from stage.config import Config
from stage.outbound.credentials import Credentials, PeerCredentials
from stage.ports.connection import Connection, connection_of
from stage.ports.credentials import CredentialsFunction
from stage.telemetry import logs


def credentials_of(stage: StageDeclaration[Any, Any], config: Config) -> Credentials:
    """The credentials for the peers of the stage; `open` them before the first request leaves."""
    functions = {
        name: function
        for each in reversed(list(stage.family()))
        for name, function in each.credentials_functions.items()
    }
    return Credentials(
        _each("externals", config.externals, functions),
        {
            **_each("upstreams", config.upstreams, {}),
            **_each("downstreams", config.downstreams, {}),
        },
    )


def _each(
    setting: str,
    peers: Mapping[str, str | Connection],
    functions: Mapping[str, CredentialsFunction],
) -> dict[str, PeerCredentials]:
    """One for each peer that is shown anything."""
    return {
        name: PeerCredentials(
            f"{setting}.{name}", connection_of(given), functions.get(name), warn=_warn
        )
        for name, given in peers.items()
        if name in functions or not isinstance(given, str)
    }


def _warn(detail: str) -> None:
    logs.default_logger().warning("credentials_file", detail=detail)
