"""How one configured peer is reached: its address, and what it is shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from stage.wire import headers as h

ENGINE_HEADERS = frozenset(
    name.lower()
    for name in (
        *(h.IDEMPOTENCY_KEY, h.TRACEPARENT, h.TRACESTATE, h.BAGGAGE, h.SAGA_ID, h.SAGA_BUDGET_MS),
        *("Host", "Content-Length", "Transfer-Encoding", "Connection"),
    )
)
"""Headers that are set for the author, in lower case."""
CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie"})
"""Headers that are always the operator's, in lower case: no step sets one (rule 30)."""


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """One peer. It names files and holds no secret, so that it may be shown.

    A file of credentials holds one line: a token in `token_file` and `bearer_file`, `user:password`
    in `basic_file`. `headers_file` holds one `Name: value` a line. `ca_file`, `client_cert` and
    `client_key` are PEM; a `client_cert` may hold its key. An empty path is not set.
    """

    url: str
    token_file: str = ""
    bearer_file: str = ""
    basic_file: str = ""
    headers_file: str = ""
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


def connection_of(given: str | Connection) -> Connection:
    """The connection; a plain string is a URL."""
    return Connection(url=given) if isinstance(given, str) else given


class OutgoingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is about to leave, as a credentials function sees it to sign it.

    The headers for the trace and the budget are added behind it.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


CredentialsFunction = Callable[[OutgoingRequest], Awaitable[Mapping[str, str]]]
"""An author's function: the headers to add to a request. They are journaled nowhere."""
