"""The calls of what is measured to its neighbours: through aiohttp's session, or our transport."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from aiohttp import ClientSession, TCPConnector

from stage.outbound.transport import Transport
from stage.ports.stage import Answer

CALL_SECONDS_MAX = 30.0
JSON = [("Content-Type", "application/json")]


class Client(Protocol):
    """Posts JSON and gives the JSON of the answer."""

    async def post(self, url: str, body: object) -> dict[str, Any]:
        """Raises where there is no answer."""
        ...


class SessionClient:
    """The client that people use: aiohttp's session, without a limit of connections."""

    def __init__(self) -> None:
        self._session = ClientSession(connector=TCPConnector(limit=0))

    async def post(self, url: str, body: object) -> dict[str, Any]:
        """See Client."""
        async with self._session.post(url, json=body) as response:
            answer: dict[str, Any] = await response.json()
            return answer


class TransportClient:
    """The transport of the stage, alone: without its breaker, its limits and its headers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def post(self, url: str, body: object) -> dict[str, Any]:
        """See Client."""
        answer = await self._transport.send(
            "POST", url, headers=JSON, body=msgspec.json.encode(body), timeout=CALL_SECONDS_MAX
        )
        if not isinstance(answer, Answer):
            raise ConnectionError(answer.reason)
        found: dict[str, Any] = msgspec.json.decode(answer.body)
        return found


async def client(kind: str) -> Client:
    """`session` or `transport`, in the event loop that uses it."""
    if kind == "session":
        return SessionClient()
    transport = Transport()
    await transport.open()
    return TransportClient(transport)
