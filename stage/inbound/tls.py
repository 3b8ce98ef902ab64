"""The certificate of the listener, and the authorities of its callers: read anew on change.

A renewed file needs no restart: connections that come in afterwards are shown it within a second.
Files that cannot be used are refused at start. While the stage runs, what they held before stays in
force. The certificate with its key and the authorities stand by themselves: a wrong file of one
keeps no renewed one of the other from being used.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from stage.core.errors import ConfigurationError
from stage.inbound.tls_alert import AlertingContext
from stage.ports.certificates import (
    MINIMUM,
    FileState,
    Pair,
    Shows,
    authorities,
    read_pair,
)
from stage.ports.file_marks import LOOK_SECONDS, Mark, Warn, mark_of

CERT, KEY, CLIENT_CA = "tls_cert", "tls_key", "tls_client_ca"


class ListenerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files. An empty `key` stands in the file of the certificate; an empty `client_ca` asks
    nobody for a certificate."""

    cert: str
    key: str = ""
    client_ca: str = ""


class Trusted(NamedTuple):
    """The authorities as they were read last, in a file that could be used."""

    pem: str = ""
    digest: bytes = b""
    expires_at: float | None = None


class InForce(NamedTuple):
    """The TLS of a connection. Each set of authorities has a `trust` of its own."""

    context: ssl.SSLContext
    trust: bytes
    expires_at: float
    trust_expires_at: float | None


class ListenerTls:
    """The TLS of the listener. `open` reads the files first; `keep_fresh` looks at them on."""

    def __init__(self, files: ListenerFiles, *, warn: Warn) -> None:
        self._files = files
        self._warn = warn
        self._pair: Pair | None = None
        self._pair_marks: tuple[Mark, ...] = ()
        self._trusted: Trusted | None = None if files.client_ca else Trusted()
        self._trusted_mark: Mark | None = None
        self._made_of: tuple[tuple[Mark, ...], bytes] | None = None
        """In force: the marks of certificate and key, and the digest of the authorities."""
        self._in_force: InForce | None = None
        self._warned: dict[str, str] = {}

    @property
    def in_force(self) -> InForce:
        """The files as a connection meets them that comes in now."""
        assert self._in_force is not None, "open it first"
        return self._in_force

    @property
    def names_callers(self) -> bool:
        """Whether a caller may show a certificate."""
        return bool(self._files.client_ca)

    def states(self) -> Iterator[FileState]:
        """The states of the certificate and of the authorities."""
        if self._in_force is None:
            return
        yield FileState(CERT, CERT in self._warned, self._in_force.expires_at)
        if self.names_callers:
            yield FileState(CLIENT_CA, CLIENT_CA in self._warned, self._in_force.trust_expires_at)

    async def open(self) -> None:
        """Read the files. Raises ConfigurationError with the fix; warns of a key that others
        see."""
        await self.renew()
        if self._warned:
            raise ConfigurationError("\n".join(self._warned.values()))
        for line in await asyncio.to_thread(_exposed, self._files.key or self._files.cert):
            self._warn(line)

    async def keep_fresh(self, retrusted: Callable[[], None]) -> None:
        """Look at the files until cancelled. `retrusted` is called when other authorities hold."""
        failed = ""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                renewed, why = await self.renew(), ""
            except Exception as error:  # no thread or no memory for now: they are looked at again
                renewed, why = False, f"the TLS files cannot be looked at: {error!r}"
            if why and why != failed:
                self._warn(f"{why}; what they held before is still used")
            failed = why
            if renewed:
                retrusted()

    async def renew(self) -> bool:
        """Take up what has changed; whether other authorities are trusted from now on."""
        before = self._in_force
        problems = await asyncio.to_thread(self._read)
        for place, problem in problems.items():
            if before is not None and self._warned.get(place) != problem:
                self._warn(f"{problem}; what it held before is still used")
        self._warned = problems
        return before is not None and before.trust != self.in_force.trust

    def _read(self) -> dict[str, str]:
        """Take up what has changed and can be used; a line for each place that is wrong."""
        problems: dict[str, str] = {}
        pair = self._read_pair(problems)
        trusted = self._read_trusted(problems)
        if pair is None or trusted is None:
            return problems
        made_of = (self._pair_marks, trusted.digest)
        if made_of == self._made_of:
            return problems
        try:
            self._in_force = _in_force(pair, trusted)
        except (OSError, ValueError) as error:  # no descriptor is left, say
            return {**problems, CERT: f"{CERT} {error}"}
        self._made_of = made_of
        return problems

    def _read_pair(self, problems: dict[str, str]) -> Pair | None:
        """Certificate and key, those of before where they are wrong now; None without any."""
        files = self._files
        try:
            marks = tuple(mark_of(path) for path in (files.cert, files.key) if path)
            if marks != self._pair_marks:  # of before: a change since then is seen at the next look
                self._pair = read_pair(files.cert, files.key, Shows.SERVER)
                self._pair_marks = marks
        except OSError as error:
            problems[CERT] = _unreadable(CERT, error)
        except ValueError as error:
            problems[CERT] = f"{CERT} {error}"
        return self._pair

    def _read_trusted(self, problems: dict[str, str]) -> Trusted | None:
        """The authorities, those of before where the file is wrong now; None without any."""
        if not (path := self._files.client_ca):
            return self._trusted
        try:
            mark = mark_of(path)
            if mark != self._trusted_mark:
                read = Path(path).read_bytes()
                pem = read.decode("ascii", "ignore")  # comments may be anything
                expires_at = authorities(_context(), path, pem)
                self._trusted = Trusted(pem, hashlib.sha256(read).digest(), expires_at)
                self._trusted_mark = mark
        except OSError as error:
            problems[CLIENT_CA] = _unreadable(CLIENT_CA, error)
        except ValueError as error:
            problems[CLIENT_CA] = f"{CLIENT_CA} {error}"
        return self._trusted


def _unreadable(place: str, error: OSError) -> str:
    return f"{place} {error.filename} cannot be read ({error.strerror}): write it"


def _exposed(key: str) -> list[str]:
    """A line for a key that other users of the machine may read."""
    mode = stat.S_IMODE(os.stat(key).st_mode)
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    return [f"{KEY} {key} may be read by others (mode {mode:04o}): chmod 600 it"]


def _in_force(pair: Pair, trusted: Trusted) -> InForce:
    """All of it in a new context: a session of the one of before is not taken up again."""
    context = _context()
    pair.load_into(context)
    if trusted.pem:
        context.load_verify_locations(cadata=trusted.pem)
        context.verify_mode = ssl.CERT_OPTIONAL  # a token is a name as well
    return InForce(context, trusted.digest, pair.expires_at, trusted.expires_at)


def _context() -> ssl.SSLContext:
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MINIMUM
    context.set_alpn_protocols(("http/1.1",))
    return context
