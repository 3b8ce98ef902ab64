"""The credentials of all peers, as the operator and the author have set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stage.authoring.declaration import StageDeclaration
from stage.authoring.steps import ExternalStep
from stage.config import Config
from stage.outbound.credentials import Credentials, PeerCredentials
from stage.ports.connection import Connection, connection_of
from stage.ports.credentials import CredentialsFunction
from stage.telemetry import logs


def credentials_of(
    stage: StageDeclaration[Any, Any], config: Config, *, warns: bool = False
) -> Credentials:
    """The credentials for the peers of the stage; `open` them before the first request leaves.

    With `warns` the log names each API whose webhooks will be refused, as at a start.
    """
    if warns:
        _warn_of_webhooks(stage, config)
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


def webhooks_without_secret(stage: StageDeclaration[Any, Any], config: Config) -> tuple[str, ...]:
    """The webhooks that would be refused for want of a secret: a line for each API, with the fix.

    A function that vouches verifies in a way of its own, and needs none.
    """
    wanting = {
        step.rules.peer: step.hearing.__name__
        for each in stage.family()
        for step in each.steps
        if isinstance(step, ExternalStep)
        and step.hearing is not None
        and "vouch" not in step.hearing.__code__.co_names
        and not connection_of(config.externals.get(step.rules.peer, "")).webhook_secret_file
    }
    return tuple(
        f"{function} has no secret to verify a webhook of {name} with, so verify_hmac refuses each:"
        f" name its file as webhook_secret_file in [externals.{name}]"
        for name, function in sorted(wanting.items())
    )


def _warn_of_webhooks(stage: StageDeclaration[Any, Any], config: Config) -> None:
    """A warning at start about each API whose webhooks will be refused."""
    for detail in webhooks_without_secret(stage, config):
        logs.default_logger().warning("webhook_without_secret", detail=detail)


def _each(
    setting: str,
    peers: Mapping[str, str | Connection],
    functions: Mapping[str, CredentialsFunction],
) -> dict[str, PeerCredentials]:
    """The credentials of each peer that is shown anything."""
    return {
        name: PeerCredentials(
            f"{setting}.{name}", connection_of(given), functions.get(name), warn=_warn
        )
        for name, given in peers.items()
        if name in functions or not isinstance(given, str)
    }


def _warn(detail: str) -> None:
    logs.default_logger().warning("credentials_file", detail=detail)
