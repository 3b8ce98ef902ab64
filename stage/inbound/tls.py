"""The certificate of the listener, and the authorities of its callers: read anew on change.

A renewed file needs no restart: connections that come in afterwards are shown it within a second.
Files that cannot be used are refused at start. While the stage runs, the former ones stay in force.
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
from stage.inbound.file_marks import LOOK_SECONDS, Mark, Warn, mark_of
from stage.ports.certificates import (
    MINIMUM,
    FileState,
    Shows,
    authorities,
    expiry_of,
    load_pair,
)

CERT, KEY, CLIENT_CA = "tls_cert", "tls_key", "tls_client_ca"


class ListenerFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files. An empty `key` stands in the file of the certificate; an empty `client_ca` asks
    nobody for a certificate."""

    cert: str
    key: str = ""
    client_ca: str = ""


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
        self._marks: dict[str, Mark] = {}
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
        refused = bool(self._warned)  # they are taken up together, or not at all
        yield FileState(CERT, refused, self._in_force.expires_at)
        if self.names_callers:
            yield FileState(CLIENT_CA, refused, self._in_force.trust_expires_at)

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
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if await self.renew():
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
        """Read the files when one of them has changed; a line for each place that is wrong."""
        files = self._files
        try:
            marks = {
                path: mark_of(path) for path in (files.cert, files.key, files.client_ca) if path
            }
        except OSError as error:
            place = CLIENT_CA if error.filename == files.client_ca else CERT
            return {place: f"{place} {error.filename} cannot be read ({error.strerror}): write it"}
        if marks == self._marks:
            return {}
        problems = {}
        for place, judge in ((CERT, self._judge_cert), (CLIENT_CA, self._judge_client_ca)):
            try:
                judge()
            except ValueError as error:
                problems[place] = f"{place} {error}"
        if problems:
            return problems
        try:
            self._in_force = _in_force(files)
        except (OSError, ValueError) as error:  # it was replaced just now
            return {CERT: f"{CERT} {error}"}
        self._marks = marks  # taken before: a change since then is seen at the next look
        return {}

    def _judge_cert(self) -> None:
        expiry_of(self._files.cert, self._files.key, Shows.SERVER)

    def _judge_client_ca(self) -> None:
        if self._files.client_ca:
            authorities(_context(), self._files.client_ca)


def _exposed(key: str) -> list[str]:
    """A line for a key that other users of the machine may read."""
    mode = stat.S_IMODE(os.stat(key).st_mode)
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return []
    return [f"{KEY} {key} may be read by others (mode {mode:04o}): chmod 600 it"]


def _in_force(files: ListenerFiles) -> InForce:
    """The files in a new context, so that no TLS session of the former context is resumed."""
    context = _context()
    load_pair(context, files.cert, files.key)
    trust, trust_expires_at = b"", None
    if files.client_ca:
        trust_expires_at = authorities(context, files.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL  # a token is a name as well
        trust = hashlib.sha256(Path(files.client_ca).read_bytes()).digest()
    return InForce(context, trust, expiry_of(files.cert, files.key, Shows.SERVER), trust_expires_at)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = MINIMUM
    context.set_alpn_protocols(("http/1.1",))
    return context
