"""The keys of a neighbour: the token that it shows the stage, and what it believes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from stage.neighbours.shared.tls import caller_context
from stage.wire.problem import WireError
from stage.wire.tokens import AUTHORIZATION, BEARER, bearer_of, is_accepted, parse_accept_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Read once, at the start. Without any nothing is shown, and everybody is let in."""

    token: str = field(default="", repr=False)
    accepted: tuple[bytes, ...] = ()
    trusted: ssl.SSLContext | None = field(default=None, repr=False)
    """The TLS under which the stage is called; None is the usual one."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The header that shows the token."""
        return {AUTHORIZATION: f"{BEARER} {self.token}"} if self.token else {}

    def guard(self) -> Middleware:
        """Refuse 401 what posts without a token that is accepted. The books may be read."""

        @web.middleware
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            protocol = request.method == hdrs.METH_POST and request.path.startswith("/sagas")
            if protocol and self.accepted:
                token = bearer_of(request.headers.getall(AUTHORIZATION, []))
                if token is None or not is_accepted(token, self.accepted):
                    raise WireError(401, "No name", "no token that is known here", retryable=True)
            return await handler(request)

        return guarded


def read_keys(token_file: str, accept_file: str, ca_file: str = "") -> Keys:
    """The keys in the files; an empty path is no file. Raises OSError and ValueError."""
    return Keys(
        token=Path(token_file).read_text().strip() if token_file else "",
        accepted=parse_accept_lines(Path(accept_file).read_text()) if accept_file else (),
        trusted=caller_context(ca_file),
    )
