"""Settings of one peer or operator: a URL alone, or a table of keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from stage.config.values import (
    certificate_name,
    check_url,
    codes,
    count,
    file_path,
    one_of,
    proxy_url,
    rate_between,
    seconds_between,
    stage_names,
)
from stage.ports.connection import Connection
from stage.ports.operator import Operator, Role
from stage.ports.policy import Policy

URL = "url"
NEIGHBOURS = ("upstreams", "downstreams")
EXTERNALS = ("externals",)
EVERY = NEIGHBOURS + EXTERNALS
OPERATORS = ("operators",)
STEPS = ("steps",)
POLICIES = EXTERNALS + STEPS


class PeerKey(NamedTuple):
    """One key of a peer's table; `settings` are those in which it may stand."""

    name: str
    read: Callable[[object], Any]
    settings: tuple[str, ...]


PEER_KEYS = (
    PeerKey(URL, check_url, EVERY),
    PeerKey("token_file", file_path, NEIGHBOURS),
    PeerKey("accept_file", file_path, NEIGHBOURS),
    PeerKey("accept_san", certificate_name, NEIGHBOURS),
    PeerKey("formerly", stage_names, NEIGHBOURS),
    PeerKey("bearer_file", file_path, EXTERNALS),
    PeerKey("basic_file", file_path, EXTERNALS),
    PeerKey("headers_file", file_path, EXTERNALS),
    PeerKey("webhook_secret_file", file_path, EXTERNALS),
    PeerKey("ca_file", file_path, EVERY),
    PeerKey("client_cert", file_path, EVERY),
    PeerKey("client_key", file_path, EVERY),
    PeerKey("proxy", proxy_url, EVERY),
    PeerKey("proxy_basic_file", file_path, EVERY),
    PeerKey("concurrency_max", count(1, 100_000), EVERY),
    PeerKey("rate_per_second", rate_between(0.01, 100_000), EVERY),
    PeerKey("attempts_max", count(1, 1_000), POLICIES),
    PeerKey("compensation_attempts_max", count(1, 10_000), POLICIES),
    PeerKey("timeout_seconds", seconds_between(0.001, 3_600), POLICIES),
    PeerKey("key_lifetime_seconds", seconds_between(1, 365 * 86_400), POLICIES),
    PeerKey("never_retry", codes, POLICIES),
)
"""The fields of `ports.connection.Connection`, in their order."""
OPERATOR_KEYS = (
    PeerKey("accept_file", file_path, OPERATORS),
    PeerKey("accept_san", certificate_name, OPERATORS),
    PeerKey("role", one_of(*Role), OPERATORS),
)
"""The fields of `ports.operator.Operator`, in their order."""


URLLESS = {
    key.name for key in PEER_KEYS if EXTERNALS[0] in key.settings and POLICIES[-1] in key.settings
} | {"concurrency_max", "rate_per_second", "webhook_secret_file"}
"""The keys of an external system that only effects reach: it has no URL (decision 0076)."""


def keys_of(setting: str) -> dict[str, PeerKey]:
    """The keys that a peer of that setting may have, by name."""
    return {key.name: key for key in (*PEER_KEYS, *OPERATOR_KEYS) if setting in key.settings}


def peer_of(setting: str, parts: Mapping[str, Any]) -> str | Connection | Operator | Policy:
    """The peer, operator or step from the values of its keys. Raises ValueError with the fix."""
    if setting in STEPS:
        return Policy(**parts)
    if setting in OPERATORS:
        if "accept_file" not in parts and "accept_san" not in parts:
            raise ValueError(
                "has neither accept_file nor accept_san: `stage keys new NAME` writes a file"
            )
        return Operator(**{**parts, "role": Role(parts.get("role", Role.VIEWER))})
    orchestrator = setting == "upstreams" and ("accept_file" in parts or "accept_san" in parts)
    effect = setting in EXTERNALS and not parts.keys() - URLLESS
    if URL not in parts and not orchestrator and not effect:
        raise ValueError('has no url: add it, for example url = "http://host:8080"')
    if URL in parts and len(parts) == 1:
        return str(parts[URL])
    connection = Connection(**parts)
    if connection.bearer_file and connection.basic_file:
        raise ValueError("has bearer_file and basic_file, one header for both: keep one")
    if connection.client_key and not connection.client_cert:
        raise ValueError("has client_key without client_cert: add client_cert, or remove it")
    tls = [name for name in ("ca_file", "client_cert") if parts.get(name)]
    if tls and not connection.url.startswith("https:"):
        raise ValueError(f"has {tls[0]}, which only TLS uses: give an https URL, or remove it")
    if connection.proxy_basic_file and not connection.proxy:
        raise ValueError("has proxy_basic_file without proxy: add proxy, or remove it")
    if connection.proxy and not connection.url.startswith("https:"):
        raise ValueError(
            "has proxy, which could read, change and repeat what is not under TLS: give an https"
            " URL, or remove it"
        )
    return connection
