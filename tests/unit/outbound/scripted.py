"""A transport that answers as scripted, and what is asked of it."""

from __future__ import annotations

from stage.engine.clock import SystemClock
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers
from stage.ports.peers import Peers
from stage.ports.stage import Answer, Lost


class Sent:
    """One request that left."""

    tls: object = None
    proxy: object = None

    def __init__(self, method: str, url: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body


class ScriptedTransport:
    """Answers every request with the same."""

    def __init__(self, answer: Answer | Lost) -> None:
        self.answer = answer
        self.sent: list[Sent] = []

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: list[tuple[str, str]],
        body: bytes,
        timeout: float,
        tls: object = None,
        proxy: object = None,
        fresh: bool = False,
    ) -> Answer | Lost:
        """Note what would have gone where."""
        self.sent.append(Sent(method, url, headers, body))
        self.sent[-1].tls = tls
        self.sent[-1].proxy = proxy
        return self.answer


class FixedClock(SystemClock):
    """A clock that stands at Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110."""

    def now(self) -> float:
        """See ports.clock.Clock."""
        return 784_111_777.0


def client_over(transport: ScriptedTransport) -> PeerClient:
    """A client over that transport."""
    return PeerClient(transport, clock=FixedClock())


def peers_of(client: PeerClient) -> Peers:
    """An external API `psp`, an upstream `order` and a downstream `shipping`."""
    return http_peers(
        client,
        externals={"psp": "http://psp:1/v1/"},
        downstreams={"shipping": "http://shipping:1/base/"},
        upstreams={"order": "http://order:1"},
    )


def answered(status: int, body: bytes = b"", *headers: tuple[str, str]) -> Answer:
    """An answer."""
    return Answer(status=status, headers=headers, body=body)
