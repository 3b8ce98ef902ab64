"""Which PostgreSQL database is asked for, and whose it has to be. It needs no driver."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from os import getpid
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

POSTGRESQL: Final = "postgresql://"


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
