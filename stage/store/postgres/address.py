"""Which PostgreSQL database is asked for, and whose it has to be. It needs no driver."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from os import getpid
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import msgspec

POSTGRESQL: Final = "postgresql://"
VERIFYING: Final = frozenset({"verify-ca", "verify-full"})
"""The values of `sslmode` with which a server has to prove who it is."""


class DatabaseServer(msgspec.Struct, frozen=True, kw_only=True):
    """Where the database is, whose it has to be, and what stands between."""

    url: str
    stage: str = ""
    """Empty: that of any stage."""
    release: str = ""
    former: tuple[str, ...] = ()
    """Names that the stage had before: a database keeps the one that it was made under."""
    must_exist: bool = False
    """Refuse a database that no stage was ever opened on."""
    now: Callable[[], float] = time.time
    """The instant at which a database that is made was born."""

    @property
    def shown(self) -> str:
        """The address without user and password, for people."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def hosts(self) -> int:
        """How many servers the URL names: with more than one a standby may take over."""
        return urlsplit(self.url).netloc.rpartition("@")[2].count(",") + 1

    @property
    def replica_name(self) -> str:
        """The name of this process for people."""
        return f"{socket.gethostname()}:{getpid()}"


def unverified(url: str, environ: Mapping[str, str]) -> str:
    """The first host of a URL that need not prove who it is; empty: none.

    The driver takes from the environment all that the URL leaves out. Loopback and sockets prove
    themselves, and a service file (`service`) is the operator's. `require` looks at a certificate
    only where an authority is named.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    mode = query.get("sslmode") or environ.get("PGSSLMODE", "")
    named = query.get("sslrootcert") or environ.get("PGSSLROOTCERT")
    if mode in VERIFYING or (mode == "require" and named) or "service" in query:
        return ""
    given = parts.netloc.rpartition("@")[2] or query.get("host") or environ.get("PGHOST", "")
    hosts = (_without_port(unquote(each)) for each in given.split(","))
    return next((each for each in hosts if not _is_here(each)), "")


def _without_port(host: str) -> str:
    """The host of `HOST:PORT` or `[ADDRESS]:PORT`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_here(host: str) -> bool:
    """Whether it is this machine: a folder of sockets, or loopback. No host means it too."""
    if not host or host.startswith("/") or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
