"""A request and its answer as values: every endpoint takes the one and returns the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol
from urllib.parse import parse_qs

import msgspec

from stage.inbound.client_certificate import ClientCertificate
from stage.inbound.principal import STRANGER, Principal
from stage.ports.observer import Span
from stage.wire import headers as h
from stage.wire.problem import CONTENT_TYPE

Pairs = Sequence[tuple[str, str]]


class Headers(Protocol):
    """The headers of a request. Names are looked up in any case.

    The headers of aiohttp fit as they are, so that its adapter copies nothing.
    """

    def items(self) -> Iterable[tuple[str, str]]:
        """All of them, in their order."""
        ...

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """The values of all headers of that name, or the default without one."""
        ...

    def get(self, name: str, default: str, /) -> str:
        """The first value under that name, or the default."""
        ...


class HeaderPairs:
    """Headers out of pairs of a name and a value."""

    __slots__ = ("_pairs", "_values")

    def __init__(self, pairs: Pairs = ()) -> None:
        self._pairs = pairs
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def items(self) -> Pairs:
        """See `Headers`."""
        return self._pairs

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """See `Headers`."""
        return self._values.get(name.lower(), default)

    def get(self, name: str, default: str, /) -> str:
        """See `Headers`."""
        values = self._values.get(name.lower())
        return values[0] if values else default


class About:
    """Facts about a request that are found while it is answered.

    `saga_id` is the saga that the path or the body names; empty before it is read, and where it
    is no saga id. `opener` is the last name in the trail of the body. `span` and `principal` are
    set before an endpoint runs.
    """

    __slots__ = ("opener", "principal", "saga_id", "span")

    saga_id: str
    opener: str
    span: Span
    principal: Principal

    def __init__(self) -> None:
        self.saga_id = ""
        self.opener = ""
        self.principal = STRANGER


class Door(StrEnum):
    """The listener that a request came in at."""

    ONLY = "only"
    """There is no other port."""
    PUBLIC = "public"
    """The protocol alone: operators and the platform have a port of their own."""
    ADMIN = "admin"
    LOCAL = "local"
    """The socket beside the database, which only its owner may open."""


UNKNOWN_ADDRESS: Final = "?"
"""The local address of a connection that has gone, or whose server does not say it."""


async def no_body() -> bytes:
    """The body of a request that has none."""
    return b""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `path` is as it was sent, escapes included, without `prefix` and query.

    `prefix` is the path that the stage is mounted under, without a slash at its end. `read_body`
    reads the whole body, within the limits of the adapter; it raises WireError 400, 408 or 413.
    """

    method: str
    path: str
    prefix: str = ""
    query: str = ""
    headers: Headers = msgspec.field(default_factory=HeaderPairs)
    scheme: str = "http"
    door: Door = Door.ONLY
    local_address: str = ""
    """The address that its connection was made to; empty at a socket file."""
    local_user: str = ""
    """The user of this machine that sent it through the LOCAL door; empty at any other."""
    certificate: ClientCertificate | None = None
    """The certificate of the caller, which the listener of `stage serve` has verified."""
    read_body: Callable[[], Awaitable[bytes]] = no_body
    parameters: Mapping[str, str] = msgspec.field(default_factory=dict)
    """The parts of the path that the template of the route names, without escapes."""
    about: About = msgspec.field(default_factory=About)

    def query_values(self) -> dict[str, list[str]]:
        """The parameters of the query, each with all its values."""
        return parse_qs(self.query, keep_blank_values=True)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `close` asks the server to close the connection after it."""

    status: int = 200
    headers: Pairs = ()
    body: bytes = b""
    close: bool = False


JSON = ("Content-Type", h.CONTENT_JSON)
PROBLEM_JSON = ("Content-Type", CONTENT_TYPE)


def json_answer(value: object, *headers: tuple[str, str], status: int = 200) -> Answer:
    """The value as JSON."""
    return Answer(status=status, headers=(JSON, *headers), body=msgspec.json.encode(value))
