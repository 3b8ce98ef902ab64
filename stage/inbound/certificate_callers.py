"""Callers by the names in their certificates, beside those that show tokens (rule 36)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from stage.inbound.accept_files import TokenCallers
from stage.inbound.client_certificate import ClientCertificate
from stage.inbound.principal import PLATFORM, STRANGER, Principal
from stage.inbound.request import Door, Request
from stage.wire.tokens import AUTHORIZATION


class CertificateCallers:
    """`Callers` by certificate or by token. All that a request shows has to be of one name.

    `names` has the principal of each name, such as `DNS:order`. A certificate of another name
    counts as none: a gateway may have one of its own. `open` reads the files of the tokens.
    """

    def __init__(
        self,
        names: Mapping[str, Principal],
        tokens: TokenCallers,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._names = names
        self.tokens = tokens
        self._now = now

    async def open(self) -> None:
        """See `TokenCallers`."""
        await self.tokens.open()

    async def identify(self, request: Request) -> Principal:
        """See `Callers`."""
        certified = None if request.certificate is None else self._principal(request.certificate)
        if certified is None:
            return await self.tokens.identify(request)
        if not request.headers.getall(AUTHORIZATION, ()):
            return certified
        if certified == await self.tokens.identify(request):
            return certified
        return PLATFORM if request.door is Door.ADMIN else STRANGER

    def _principal(self, certificate: ClientCertificate) -> Principal | None:
        """The principal that the certificate names; None where it names two."""
        if certificate.expires_at <= self._now():
            return None  # it was valid when the connection began
        found = {self._names[name] for name in certificate.names if name in self._names}
        return found.pop() if len(found) == 1 else None
