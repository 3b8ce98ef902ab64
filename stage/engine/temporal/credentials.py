"""The credentials for Temporal, and the authorities that are believed: files, read anew.

Certificates are read at each connection, the API key once a second besides. Nothing of them is in a
log, an error or a `repr`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from temporalio.client import Client
from temporalio.service import TLSConfig

from stage.core.errors import ConfigurationError


class TemporalFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Paths, each empty where it is not set. Without any of them the connection is plain."""

    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    api_key_file: str = ""

    def check(self) -> None:
        """Raises ConfigurationError with the fix, for what would never be let in."""
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
        _check("temporal_api_key_file", self.api_key_file, self.api_key)

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

    def api_key(self) -> str | None:
        """None without one. Raises OSError, ValueError."""
        if not self.api_key_file:
            return None
        key = Path(self.api_key_file).read_text("ascii", "replace").strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("holds no API key: write the key alone, on one line")
        return key

    async def show_new_key(self, client: Client) -> None:
        """Show an API key that was written since; what cannot be read changes nothing."""
        if not self.api_key_file:
            return
        with suppress(OSError, ValueError):
            key = await asyncio.to_thread(self.api_key)
            if key != client.api_key:
                client.api_key = key


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
