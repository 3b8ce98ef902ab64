"""The one table from errors of the network to what is known about the request.

`certain` means that the request never left this process whole, or that the peer has ended the
handshake of TLS before it read any of it, so that nothing happened there. Everything else may have
arrived: in doubt (rule 4).

The reason is in words of our own, made of types and numbers: the text of an error may quote the URL
with its query, or an address, and neighbours read the reason (rule 38).
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import Final

import aiohttp
from aiohttp.http import HttpProcessingError

from stage.ports.stage import Lost


class NeverWritten(aiohttp.ClientConnectionResetError):
    """No byte of the request left: its connection had ended, or it cannot be written at all.

    Its text is ours, and may be shown.
    """


class NotHttp(HttpProcessingError):
    """The peer does not keep to HTTP. Its message is ours, and may be shown."""


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

_OF_THE_SYSTEM: Final = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "no route",
    errno.ETIMEDOUT: "no connection in time",
}

_SHOWN: Final = re.compile(r"\[SSL: (\w+)\]")
"""The beginning of an error of TLS, as Python words it."""


def classify_exception(error: BaseException, *, judged: bool = False) -> Lost:
    """The knowledge that remains after a request raised.

    `judged` says that the peer had answered on that connection before: it has taken our certificate
    and may have read the request, so that its alert says no more than the end of any connection.
    """
    alert = _alert_of(error)
    if alert in CERTIFICATE_REFUSED and (not judged or isinstance(error, NeverWritten)):
        return Lost(
            reason=f"not taken: the peer refuses the certificate that it is shown ({alert})",
            certain=True,
            error="certificate",
            denied=True,
        )
    if isinstance(error, CERTAIN):
        return Lost(reason=f"not sent: {_why_not_sent(error)}", certain=True, error="refused")
    if isinstance(error, TimeoutError):
        return Lost(reason="no answer in time", error="timeout")
    how = error.message if isinstance(error, NotHttp) else type(error).__name__
    return Lost(reason=f"connection broken: {how}")


def _why_not_sent(error: BaseException) -> str:
    """The words for an error that is certain."""
    match error:
        case NeverWritten():
            return str(error)
        case aiohttp.ConnectionTimeoutError():
            return "no connection in time"
        case aiohttp.ClientConnectorCertificateError():
            # Behind the comma stands the name that the certificate should have.
            message = getattr(error.certificate_error, "verify_message", "")
            return f"TLS: {message.partition(',')[0] or 'certificate not verified'}"
        case aiohttp.ClientSSLError():
            return f"TLS: {getattr(error.os_error, 'reason', None) or 'no handshake'}"
        case aiohttp.ClientConnectorDNSError():
            again = error.os_error.errno == socket.EAI_AGAIN
            return "the name servers do not answer" if again else "no such name"
        case aiohttp.ClientConnectorError():
            by = "the proxy: " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
            return by + _of_the_system(error.os_error.errno)
    return "the address is no URL"


def _of_the_system(number: int | None) -> str:
    """The words for a connection that did not come about; `number` is that of the system."""
    if number is None:  # several addresses, each with an error of its own
        return "no connection"
    return _OF_THE_SYSTEM.get(number) or f"no connection ({errno.errorcode.get(number, number)})"


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
