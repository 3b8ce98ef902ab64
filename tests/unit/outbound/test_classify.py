"""The words for what the network did: of our own, without an address or a URL (rule 38)."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from stage.outbound.classify import NeverWritten, NotHttp, classify_exception

KEY = ConnectionKey("psp.internal", 8443, True, True, None, None, None)
ADDRESS = "('10.0.0.5', 8443)"
PRIVATE = ("psp.internal", "10.0.0.5", "8443", "canary", "http")


def unproven(code: int, message: str) -> aiohttp.ClientConnectorCertificateError:
    """The error of a certificate that was looked at."""
    error: Any = ssl.SSLCertVerificationError(1, f"certificate verify failed: {message}")
    error.verify_code, error.verify_message = code, message
    return aiohttp.ClientConnectorCertificateError(KEY, error)


def ended(reason: str) -> aiohttp.ClientConnectorSSLError:
    """The error of a handshake that ended."""
    error: Any = ssl.SSLError(1, f"[SSL: {reason}] {ADDRESS}")
    error.reason = reason
    return aiohttp.ClientConnectorSSLError(KEY, error)


def unconnected(*given: Any) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, OSError(*given))


def unnamed(code: int) -> aiohttp.ClientConnectorDNSError:
    return aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(code, "psp.internal"))


@pytest.mark.parametrize(
    "error, words",
    [
        (unconnected(errno.ECONNREFUSED, f"Connect call failed {ADDRESS}"), "refused"),
        (unconnected(errno.EHOSTUNREACH, f"Connect call failed {ADDRESS}"), "no route"),
        (unconnected(errno.ENETUNREACH, f"Connect call failed {ADDRESS}"), "no route"),
        (unconnected(errno.ETIMEDOUT, ADDRESS), "no connection in time"),
        (unconnected(errno.EMFILE, ADDRESS), "no connection (EMFILE)"),
        (unconnected(f"Multiple exceptions: {ADDRESS}"), "no connection"),
        (unnamed(socket.EAI_NONAME), "no such name"),
        (unnamed(socket.EAI_AGAIN), "the name servers do not answer"),
        (unproven(10, "certificate has expired"), "TLS: certificate has expired"),
        (
            unproven(62, "Hostname mismatch, certificate is not valid for 'psp.internal'."),
            "TLS: Hostname mismatch",
        ),
        (ended("WRONG_VERSION_NUMBER"), "TLS: WRONG_VERSION_NUMBER"),
        (aiohttp.ConnectionTimeoutError("to http://psp.internal/?canary"), "no connection in time"),
        (aiohttp.InvalidURL(URL("http://psp.internal/?canary")), "the address is no URL"),
        (
            aiohttp.ClientProxyConnectionError(KEY, ConnectionRefusedError(111, ADDRESS)),
            "the proxy: refused",
        ),
        (NeverWritten("the connection is closed"), "the connection is closed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_request_that_was_not_sent_says_why(error: BaseException, words: str) -> None:
    """As short as an operator needs it; the name of the peer stands beside it."""
    lost = classify_exception(error)
    assert (f"not sent: {words}", True) == (lost.reason, lost.certain)
    assert not any(word in lost.reason for word in PRIVATE)


@pytest.mark.parametrize(
    "error, words",
    [
        (aiohttp.ServerDisconnectedError(), "ServerDisconnectedError"),
        (aiohttp.ClientOSError(errno.ECONNRESET, f"reset by {ADDRESS}"), "ClientOSError"),
        (ValueError(f"canary at {ADDRESS}"), "ValueError"),
        (NotHttp(message="more than 8 answers 1xx"), "more than 8 answers 1xx"),
    ],
)
def test_a_broken_connection_says_its_type(error: BaseException, words: str) -> None:
    """The text of an exception may quote a request."""
    lost = classify_exception(error)
    assert (f"connection broken: {words}", False) == (lost.reason, lost.certain)
