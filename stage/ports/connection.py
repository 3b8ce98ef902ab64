"""How one configured peer is reached: part of the configuration, so it imports nothing slow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stage.ports.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """One peer. It names files and holds no secret, so that it may be shown.

    A file of credentials holds one line: a token in `token_file` and `bearer_file`, `user:password`
    in `basic_file` and `proxy_basic_file`. `headers_file` holds one `Name: value` a line.
    `webhook_secret_file` holds what the webhooks of an external API are verified with, one secret a
    line. `ca_file`, `client_cert` and `client_key` are PEM; a `client_cert` may hold its key. An
    empty path is not set.

    `proxy` is the URL of an HTTP proxy that tunnels TLS to the peer.

    `token_file` is what a neighbour is shown, `accept_file` has the hashes of what it may show.
    `accept_san` is the name in the certificate that it shows, where that is not its own. `formerly`
    has the names that it had before: of its sagas from then it speaks under these. An
    upstream without a `url` starts sagas and is never notified: an orchestrator asks by itself.

    `concurrency_max` and `rate_per_second` are its `ports.peers.PeerLimits`; None: their default.
    The last five are the `policy` of an external API.
    """

    url: str = ""
    token_file: str = ""
    accept_file: str = ""
    accept_san: str = ""
    formerly: tuple[str, ...] = ()
    bearer_file: str = ""
    basic_file: str = ""
    headers_file: str = ""
    webhook_secret_file: str = ""
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    proxy: str = ""
    proxy_basic_file: str = ""
    concurrency_max: int | None = None
    rate_per_second: float | None = None
    attempts_max: int | None = None
    compensation_attempts_max: int | None = None
    timeout_seconds: float | None = None
    key_lifetime_seconds: float | None = None
    never_retry: tuple[int, ...] = ()

    @property
    def policy(self) -> Policy:
        """The policy of every call to this API."""
        return Policy(
            attempts_max=self.attempts_max,
            compensation_attempts_max=self.compensation_attempts_max,
            timeout_seconds=self.timeout_seconds,
            key_lifetime_seconds=self.key_lifetime_seconds,
            never_retry=self.never_retry,
        )


def connection_of(given: str | Connection) -> Connection:
    """The connection; a plain string is a URL."""
    return Connection(url=given) if isinstance(given, str) else given


def former_names(peers: Mapping[str, str | Connection]) -> dict[str, str]:
    """The name of today by each name of before."""
    return {
        former: name for name, given in peers.items() for former in connection_of(given).formerly
    }
