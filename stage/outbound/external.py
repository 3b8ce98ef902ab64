"""External APIs over HTTP, by configured name."""

from __future__ import annotations

from collections.abc import Mapping

from stage.outbound.client import BreakerUse, PeerClient, PeerRequest
from stage.outbound.credentials import PeerCredentials
from stage.ports.credentials import CREDENTIAL_HEADERS
from stage.ports.external import ExternalRequest
from stage.ports.stage import Answer, Lost
from stage.wire import headers as h


class HttpExternal:
    """`ports.external.External` over HTTP. `addresses` are base URLs by name."""

    def __init__(
        self,
        client: PeerClient,
        addresses: Mapping[str, str],
        credentials: Mapping[str, PeerCredentials] | None = None,
    ) -> None:
        self._client = client
        self._credentials = credentials or {}
        self._bases = {name: url.rstrip("/") for name, url in addresses.items()}

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """See `ports.external.External`. Paths of external APIs are not ours, so no route.

        A release before rule 30 may have journaled credentials with a request: they stay behind.
        """
        request = outgoing.request
        headers = [each for each in request.headers if each[0].lower() not in CREDENTIAL_HEADERS]
        if outgoing.looks:
            headers.append(h.NO_CACHE)
        return await self._client.send(
            PeerRequest(
                peer=outgoing.peer,
                method=request.method,
                url=self._bases[outgoing.peer] + request.path,
                route="",
                breaker=BreakerUse.GUARDED if outgoing.breakable else BreakerUse.RECORDED,
                trace=outgoing.trace,
                timeout=outgoing.timeout,
                headers=(*headers, (h.IDEMPOTENCY_KEY, outgoing.key)),
                body=request.body,
                budget=outgoing.budget,
                credentials=self._credentials.get(outgoing.peer),
                fresh=not outgoing.repeatable,
            )
        )
