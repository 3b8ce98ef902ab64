"""Files of a certificate and its key: judged by a handshake in memory before they are used.

`ssl` reads the dates of a certificate only of a peer that it verified. So the pair is shown to a
peer of our own, which also finds a key of another certificate and one that is for another purpose.
The pair that was judged is kept and shown: the files may be other ones by then.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import Final, NamedTuple

MINIMUM: Final = ssl.TLSVersion.TLSv1_2
PEM_BYTES_MAX: Final = 1_048_576
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


class Pair(NamedTuple):
    """A certificate and its key, as they were read and judged. Its `repr` shows neither.

    Contexts are made of it also after its files were changed into something that cannot be used.
    """

    path: str
    """The file of the certificate, for messages."""
    cert: bytes
    key: bytes
    """Empty where it stands with the certificate."""
    expires_at: float = 0.0

    def __repr__(self) -> str:
        return f"Pair({self.path})"

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let the context show the certificate.

        Raises ValueError with the fix, without what a file holds.
        """
        try:
            with _readable(self.cert) as cert, _readable(self.key) as key:
                context.load_cert_chain(cert, key if self.key else None, password=_no_password)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise ValueError(_unusable(self.path, error)) from None


def read_pair(cert: str, key: str, side: Shows) -> Pair:
    """Read a pair that can be shown; with an empty `key`, the file of the certificate holds it too.

    Raises OSError for a file that cannot be read, and ValueError with the fix: a certificate that
    is not valid now, or not for that side, is refused.
    """
    pair = Pair(cert, _read(cert), _read(key) if key else b"")
    return pair._replace(expires_at=_expiry_of(pair, side))


def read_pem(path: str) -> str:
    """The text of a file of certificates. Raises OSError, and ValueError for one that is too long.

    Comments in it may be anything.
    """
    return _read(path).decode("ascii", "ignore")


def load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    """Let the context show the certificate in the files, unjudged, as `read_pair` takes them.

    Raises ValueError with the fix, without what a file holds.
    """
    try:
        context.load_cert_chain(cert, key or None, password=_no_password)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ValueError(_unusable(cert, error)) from None


def _expiry_of(pair: Pair, side: Shows) -> float:
    """The time at which the certificate expires. Raises ValueError with the fix."""
    shows = _context(ssl.PROTOCOL_TLS_SERVER if side is Shows.SERVER else ssl.PROTOCOL_TLS_CLIENT)
    pair.load_into(shows)
    judges = _context(ssl.PROTOCOL_TLS_CLIENT if side is Shows.SERVER else ssl.PROTOCOL_TLS_SERVER)
    judges.load_verify_locations(cadata=pair.cert.decode("ascii", "ignore"))
    judges.verify_mode = ssl.CERT_REQUIRED
    judges.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its issuer is not known here
    if side is Shows.CLIENT:
        pair.load_into(judges)  # a server has one, whichever
    try:
        return _shake_hands(shows, judges)
    except ssl.SSLCertVerificationError as error:
        match error.verify_code:
            case code if code == _EXPIRED:
                raise ValueError(f"{pair.path} has expired: renew it") from None
            case code if code == _NOT_YET_VALID:
                raise ValueError(
                    f"{pair.path} is not valid yet: look at the clock of this machine, or renew it"
                ) from None
        raise ValueError(
            f"{pair.path} is not for a {side} ({error.verify_message}): have it issued for one"
        ) from None
    except ssl.SSLError as error:
        raise ValueError(f"{pair.path} cannot be used ({words_of(error)}): renew it") from None


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        body = stream.read(PEM_BYTES_MAX + 1)
    if len(body) > PEM_BYTES_MAX:
        raise ValueError(f"{path} is larger than {PEM_BYTES_MAX} bytes: give PEM")
    return body


@contextmanager
def _readable(content: bytes) -> Iterator[str]:
    """A path at which OpenSSL reads it: it takes certificates and keys from paths alone.

    In memory, where the system has such files; otherwise in a private file for that moment.
    """
    memory = _memory_file()
    with tempfile.NamedTemporaryFile() if memory is None else open(memory, "wb") as file:
        file.write(content)
        file.flush()
        yield file.name if memory is None else f"/proc/self/fd/{memory}"


def _memory_file() -> int | None:
    """A file in memory; None where the system has none that a path leads to."""
    with suppress(AttributeError, OSError):
        memory = os.memfd_create("stage")
        if os.path.exists(f"/proc/self/fd/{memory}"):
            return memory
        os.close(memory)
    return None


def _unusable(path: str, error: Exception) -> str:
    return (
        f"{path} cannot be used ({words_of(error)}): give PEM, and the key that belongs to the"
        " certificate"
    )


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
