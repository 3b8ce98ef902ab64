"""External APIs: one request out, one answer or none back. A loss is a value.

The law: nothing is raised for what the API or the network does. An implementation sends a request
at most once, follows no redirect, reads no more than its limit, and returns within the timeout.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from stage.core.events import Request
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost


class ExternalRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to the API configured as `peer`, sent under the idempotency key `key`.

    `budget` and `timeout` are in seconds: what is left of the saga, None without a deadline, and
    what this attempt may take. A request that is `breakable` may be held back while the API keeps
    failing; it is then `Lost` for certain. A request that is not `repeatable` is never sent again,
    so it travels on a connection of its own, where no other request can have made the API hang up.
    A request that `looks` asks what became of another: no cache is to answer it.
    """

    peer: str
    request: Request
    key: str
    trace: TraceContext
    timeout: float
    budget: float | None = None
    breakable: bool = False
    repeatable: bool = True
    looks: bool = False


class External(Protocol):
    """The external APIs, by configured name."""

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """Send one request and read its answer."""
        ...
