"""Stops what a transaction function must not do: wait for the network, a process, or time.

All sagas share one writer, and a request that has left is not rolled back with its transaction. An
await is seen by the store; a call that blocks is seen here, by the audit events that Python raises
before it acts (docs.python.org/3/library/audit_events.html). It is a net for slips: a connection
that was opened before may send without an event, as a sleep does before Python 3.13, and then only
the watchdog sees it (rule 35).
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from contextvars import ContextVar
from typing import Final

from stage.authoring.annotations import declaring_place
from stage.core.errors import TransactionEscaped

BLOCKING: Final = frozenset(
    {
        "ftplib.connect",
        "http.client.connect",
        "http.client.send",
        "os.posix_spawn",
        "os.system",
        "smtplib.connect",
        "sqlite3.connect",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.sendto",
        "subprocess.Popen",
        "time.sleep",
        "urllib.Request",
    }
)
"""The audit events of calls that wait for more than the disk."""

_WHY_NOT: Final = (
    "it holds the database that all sagas share, and what leaves the process cannot be rolled back."
    " Move it to a call step"
)
_WHY: Final = {
    "sqlite3.connect": (
        "another connection is another transaction, which stands when this one is rolled back."
        " Use tx"
    )
}
"""The reason and the fix of an event that has its own."""

running: Final[ContextVar[str]] = ContextVar("stage_transaction", default="")
"""The step whose transaction function runs in this context. A unit has a context of its own.

Once `watch` was called, a call that blocks raises TransactionEscaped there, before it acts.
"""
_watching = False


def watch() -> None:
    """Begin to listen, once a process: an audit hook stays for ever."""
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_heard)


def _heard(event: str, _arguments: object, blocking: Collection[str] = BLOCKING) -> None:
    # By its default, as it is still called when the names of this module are gone.
    if event in blocking and (step := running.get()):
        raise TransactionEscaped(
            f"{declaring_place()}: transaction {step!r} would block in {event}, before which"
            f" nothing was written: {_WHY.get(event, _WHY_NOT)}"
        )
