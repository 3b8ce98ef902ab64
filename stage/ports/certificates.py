"""Files of a certificate and its key: judged by a handshake in memory before they are used.

`ssl` reads the dates of a certificate only of a peer that it verified. So the pair is shown to a
peer of our own, which also finds a key of another certificate and one that is for another purpose.
"""

from __future__ import annotations

import ssl
import time
from enum import StrEnum
from typing import Final, NamedTuple

MINIMUM: Final = ssl.TLSVersion.TLSv1_2
ROUNDS_MAX: Final = 8
"""A handshake takes three turns of each side."""
_EXPIRED, _NOT_YET_VALID = 10, 9
"""Codes of OpenSSL (X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID)."""
_WORDS: Final = {
    "KEY_VALUES_MISMATCH": "the key belongs to another certificate",
    "NO_START_LINE": "it is not PEM",
    "PEM_LIB": "it is not PEM",
}


class Shows(StrEnum):
    """The side of a connection that shows the certificate."""

    SERVER = "server"
    CLIENT = "client"


class FileState(NamedTuple):
    """The state of the files of one place in the configuration.

    `refused`: they were changed into something that cannot be used, and what they held before is
    still in force. `expires_at` is the end of the certificate in force, as a time of the wall
    clock; None where there is none.
    """

    place: str
    refused: bool
    expires_at: float | None = None


def load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Let the context show the certificate; with an empty `key`, its own file holds the key too.

    Raises ValueError with the fix, without what a file holds.
    """
    try:
        context.load_cert_chain(cert, key or None, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ValueError(
            f"{cert} cannot be used ({words_of(error)}): give PEM, and the key that belongs to the"
            " certificate"
        ) from None


def expiry_of(cert: str, key: str, side: Shows) -> float:
    """The time at which the certificate expires. Raises ValueError with the fix, as `load_pair`.

    A certificate that is not valid now, or not for that side, is refused.
    """
    shows = _context(ssl.PROTOCOL_TLS_SERVER if side is Shows.SERVER else ssl.PROTOCOL_TLS_CLIENT)
    load_pair(shows, cert, key)
    judges = _context(ssl.PROTOCOL_TLS_CLIENT if side is Shows.SERVER else ssl.PROTOCOL_TLS_SERVER)
    judges.load_verify_locations(cert)
    judges.verify_mode = ssl.CERT_REQUIRED
    judges.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its issuer is not known here
    if side is Shows.CLIENT:
        load_pair(judges, cert, key)  # a server has one, whichever
    try:
        return _shake_hands(shows, judges)
    except ssl.SSLCertVerificationError as error:
        match error.verify_code:
            case code if code == _EXPIRED:
                raise ValueError(f"{cert} has expired: renew it") from None
            case code if code == _NOT_YET_VALID:
                raise ValueError(
                    f"{cert} is not valid yet: look at the clock of this machine, or renew it"
                ) from None
        raise ValueError(
            f"{cert} is not for a {side} ({error.verify_message}): have it issued for one"
        ) from None
    except ssl.SSLError as error:
        raise ValueError(f"{cert} cannot be used ({words_of(error)}): renew it") from None


def authorities(context: ssl.SSLContext, path: str, pem: str) -> float:
    """Let the context trust those authorities alone; the time at which the last of them expires.

    `pem` is what was read from `path`. Raises ValueError with the fix.
    """
    try:
        context.load_verify_locations(cadata=pem)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be used ({words_of(error)}): give PEM with certificates of authorities"
        ) from None
    ends = [_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]
    if not ends:
        raise ValueError(f"{path} holds no certificate of an authority: give those that sign")
    if max(ends) <= time.time():
        raise ValueError(f"{path} has expired: renew it")
    return max(ends)


def words_of(error: Exception) -> str:
    """The reason in an error of `ssl`, without a path and without the contents of a file."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, str) and reason:
        return _WORDS.get(reason, reason)
    text = str(getattr(error, "strerror", None) or error)
    return _WORDS["PEM_LIB"] if "PEM" in text else text


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = MINIMUM
    return context


def _shake_hands(shows: ssl.SSLContext, judges: ssl.SSLContext) -> float:
    """The time at which the certificate expires that `shows` shows to `judges`."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        shows.wrap_bio(there, back, server_side=shows.protocol == ssl.PROTOCOL_TLS_SERVER),
        judges.wrap_bio(back, there, server_side=judges.protocol == ssl.PROTOCOL_TLS_SERVER),
    ]
    for side in sides * ROUNDS_MAX:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            if side is sides[1]:
                raise  # the other one has only heard of it
    found = sides[1].getpeercert()
    if not found:
        raise ssl.SSLError("no handshake comes about with it")
    return _seconds(str(found["notAfter"]))


def _seconds(date: str) -> float:
    return float(ssl.cert_time_to_seconds(date))


def _no_password() -> str:
    raise ValueError("the key is encrypted")
