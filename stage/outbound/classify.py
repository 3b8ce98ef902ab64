"""The one table from errors of the network to what is known about the request.

`certain` means that the request never left this process whole, or that the peer has ended the
handshake of TLS before it read any of it, so that nothing happened there. Everything else may have
arrived: in doubt (rule 4).
"""

from __future__ import annotations

import re
import ssl
from typing import Final

import aiohttp
from aiohttp.http import HttpProcessingError

from stage.ports.stage import Lost


class NeverWritten(aiohttp.ClientConnectionResetError):
    """No byte of the request left: its connection had ended, or it cannot be written at all."""


CERTAIN: tuple[type[BaseException], ...] = (
    aiohttp.ClientConnectorError,  # refused, unreachable, no such name, no TLS
    aiohttp.ConnectionTimeoutError,  # no connection within the time: nothing was written
    aiohttp.InvalidURL,
    NeverWritten,
)
EXPECTED: tuple[type[BaseException], ...] = (
    aiohttp.ClientError,
    HttpProcessingError,  # the answer is not HTTP
    TimeoutError,
    OSError,
    EOFError,
    ValueError,
)
"""A request may raise these for reasons of the network. Any other exception is a defect of ours."""
CERTIFICATE_REFUSED: Final = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)
"""The alerts of a peer that does not take our certificate, as OpenSSL names them (RFC 8446, 6.2).

In TLS 1.3 we may write as soon as our own part of the handshake is done, and the peer judges our
certificate afterwards. It reads no request before that.
"""

_SHOWN: Final = re.compile(r"\[SSL: (\w+)\]")
"""The beginning of an error of TLS, as Python words it."""


def classify_exception(error: BaseException, *, judged: bool = False) -> Lost:
    """The knowledge that remains after a request raised.

    `judged` says that the peer had answered on that connection before: it has taken our certificate
    and may have read the request, so that its alert says no more than the end of any connection.
    """
    text = str(error) or type(error).__name__
    alert = _alert_of(error)
    if alert in CERTIFICATE_REFUSED and (not judged or isinstance(error, NeverWritten)):
        return Lost(
            reason=f"not taken: the peer refuses the certificate that it is shown ({alert})",
            certain=True,
            error="certificate",
            denied=True,
        )
    if isinstance(error, CERTAIN):
        return Lost(reason=f"not sent: {text}", certain=True, error="refused")
    if isinstance(error, TimeoutError):
        return Lost(reason="no answer in time", error="timeout")
    return Lost(reason=f"connection broken: {type(error).__name__}: {text}"[:300])


def _alert_of(error: BaseException) -> str:
    """The name of the alert of TLS that is behind an error; empty for none."""
    cause: BaseException | None = error
    while cause is not None:
        reason = getattr(cause, "reason", None)  # some errors of aiohttp are SSLErrors without one
        if isinstance(cause, ssl.SSLError) and isinstance(reason, str):
            return reason
        # An error that came while nobody read has become one without its cause.
        if isinstance(cause, OSError) and (found := _SHOWN.match(str(cause.strerror))):
            return found[1]
        cause = cause.__cause__
    return ""
