"""Headers that are not the author's to set, and a function of the author's that may add some."""

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


class OutgoingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is about to leave, as a credentials function sees it to sign it.

    The headers for the trace and the budget are added afterwards.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


CredentialsFunction = Callable[[OutgoingRequest], Awaitable[Mapping[str, str]]]
"""An author's function: the headers to add to a request. They are journaled nowhere."""
