"""The credentials for Temporal, and the authorities that are believed: files, read anew.

All of them are looked at once a second: a new API key is shown on the connection that there is, and
new certificates are shown on a new one. Nothing of them is in a log, an error or a `repr`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec
from temporalio.client import Client
from temporalio.service import TLSConfig

from stage.core.errors import ConfigurationError
from stage.ports.certificates import Shows, read_pair

LOOK_SECONDS = 1.0
"""How often the files are looked at."""
CONNECT_SECONDS_MAX = 10.0
"""How long a connection with new certificates may take to be made."""


class TemporalFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths, each empty where it is not set. Without any of them the connection is plain."""

    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    api_key_file: str = ""

    def check(self) -> None:
        """Raises ConfigurationError with the fix, for what would never be let in."""
        self._check_tls()
        _check("temporal_api_key_file", self.api_key_file, self.api_key)

    def _check_tls(self) -> None:
        if self.client_key and not self.client_cert:
            raise ConfigurationError(
                "temporal_client_key is set, and temporal_client_cert is not: add the certificate"
            )
        if self.client_cert and not self.client_key:
            raise ConfigurationError(
                "temporal_client_cert is set, and temporal_client_key is not: add its key"
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ca := self.ca_file:
            _check("temporal_ca_file", ca, lambda: context.load_verify_locations(ca))
        if cert := self.client_cert:
            _check(
                "temporal_client_cert",
                cert,
                lambda: context.load_cert_chain(cert, self.client_key, _no_password),
            )

    def tls(self) -> TLSConfig | None:
        """None without TLS. The authorities of the system are believed without a file of others.

        Raises OSError.
        """
        if not (self.ca_file or self.client_cert or self.api_key_file):
            return None
        return TLSConfig(
            server_root_ca_cert=_bytes(self.ca_file),
            client_cert=_bytes(self.client_cert),
            client_private_key=_bytes(self.client_key),
        )

    def renewed(self, former: TLSConfig) -> TLSConfig:
        """As `tls` now. Authorities and certificate stand by themselves.

        Where one of the two is away, half written or expired, it is that of before.
        """
        found = former
        with suppress(OSError, ValueError):  # SSLError is an OSError
            if ca := _bytes(self.ca_file):
                judge = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                judge.load_verify_locations(cadata=ca.decode("ascii", "ignore"))
                found = replace(found, server_root_ca_cert=ca)
        with suppress(OSError, ValueError):
            if self.client_cert:
                pair = read_pair(self.client_cert, self.client_key, Shows.CLIENT)
                found = replace(found, client_cert=pair.cert, client_private_key=pair.key)
        return found

    def api_key(self) -> str | None:
        """None without one. Raises OSError, ValueError."""
        if not self.api_key_file:
            return None
        key = Path(self.api_key_file).read_text("utf-8-sig", "replace").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("holds no API key: write the key alone, on one line")
        return key


class Connect(Protocol):
    """Makes a client with these credentials. Raises RuntimeError when Temporal is away."""

    async def __call__(self, *, tls: TLSConfig | None, api_key: str | None) -> Client:
        """See above."""
        ...


class FreshClient:
    """A client of Temporal that shows what is in the files, also once they are written anew."""

    def __init__(
        self, files: TemporalFiles, connect: Connect, *, warn: Callable[[str], None]
    ) -> None:
        """`warn` hears of new certificates with which no connection can be made."""
        self._files = files
        self._connect = connect
        self._warn = warn
        self._tls: TLSConfig | None = None
        self._refused: TLSConfig | None = None
        """The last certificates that made no connection: one line for them is enough."""
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The newest one, once it is open."""
        assert self._client is not None
        return self._client

    async def open(self) -> Client:
        """Connect. Raises OSError, ValueError, RuntimeError."""
        tls = await asyncio.to_thread(self._files.tls)
        key = await asyncio.to_thread(self._files.api_key)
        self._client = await self._connect(tls=tls, api_key=key)
        self._tls = tls
        return self._client

    async def refresh(self) -> bool:
        """Look at the files; True when there is another `client`.

        Files that are being written, or do not fit each other, change nothing. A new key is shown
        whatever becomes of new certificates.
        """
        with suppress(OSError, ValueError):
            key = await asyncio.to_thread(self._files.api_key)
            if key != self.client.api_key:
                self.client.api_key = key
        if self._tls is not None:
            tls = await asyncio.to_thread(self._files.renewed, self._tls)
            if tls != self._tls:
                return await self._renew(tls, self.client.api_key)
        return False

    async def _renew(self, tls: TLSConfig, key: str | None) -> bool:
        """Connect with new certificates; the former client stays where that fails."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                client = await self._connect(tls=tls, api_key=key)
        except (RuntimeError, TimeoutError) as error:
            if tls != self._refused:
                self._warn(
                    "Temporal refuses the certificates that were written, and those before them"
                    f" are shown: {error}"
                )
            self._refused = tls
            return False
        self._client, self._tls = client, tls
        return True


def _check(setting: str, path: str, read: Callable[[], object]) -> None:
    """Read it once. Raises ConfigurationError, without anything of what is in the file."""
    try:
        read()
    except ssl.SSLError:
        raise ConfigurationError(
            f"{setting} {path} is no PEM of that kind, or fits no key: write it anew"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"{setting} {path} cannot be read ({error.strerror}): give a file of this process"
        ) from None
    except ValueError as error:
        raise ConfigurationError(f"{setting} {path} {error}") from None


def _no_password() -> str:
    """An encrypted key is refused, and nobody is asked for its password."""
    raise ValueError("has a key with a password: write the key without one")


def _bytes(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
