"""The meaning of PostgreSQL's errors: the one door for them, with its tables.

An error that is in no table is a mistake in a statement: it stays itself and reaches only the unit
whose statement it was.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from stage.core.errors import StoreUnavailable
from stage.store.errors import Contended

AWAY: Final = {
    "08": "the connection broke: check the server and the network",
    "25006": "the server only reads: after a failover it may be the old primary",
    "25P03": "the server ended a transaction that stood idle",
    "25P04": "the server ended a transaction that took long: look at transaction_timeout",
    "28": "the server refuses the user: check name, password and pg_hba.conf",
    "3D000": "there is no such database: check its name, or create it",
    "42501": "the user may not: grant it the database and the schema stage",
    "53": "the server is out of memory, of disk or of connections",
    "57P": "the server ends or starts: wait for it",
    "58": "the disk of the server reports an error: check its log",
    "XX": "the server reports a defect of its own or a damaged file: check its log",
}
"""Beginnings of SQLSTATEs that mean "away", each with its fix."""

COLLISIONS: Final = frozenset({"40001", "40P01", "55P03"})
"""Another transaction was in the way: serialization, deadlock, a lock that was not to be had."""

REFUSED_AT_COMMIT: Final = ("22", "23", "40")
"""Classes with which COMMIT refuses what was written, such as a deferred constraint; a trigger of
the author may raise besides."""

UNKNOWN_AT_COMMIT: Final = "40003"
"""In one of these classes, and no refusal: the server does not know whether it committed."""


def unavailable(error: BaseException, *, closed: bool = True) -> StoreUnavailable | None:
    """StoreUnavailable for an error that means so, or None for any other.

    `closed`: whether the connection is. The driver complains of an open connection where it was
    asked for something impossible, such as a statement with too few parameters.
    """
    if isinstance(error, StoreUnavailable):
        return error
    if isinstance(error, asyncpg.PostgresError):
        state = _state(error)
        for beginning, fix in AWAY.items():
            if state.startswith(beginning):
                return StoreUnavailable(f"PostgreSQL: {error} ({state}); {fix}")
        return None
    if isinstance(error, asyncpg.InternalClientError):
        return StoreUnavailable(f"PostgreSQL: {error}; the connection broke")
    if closed and isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        return StoreUnavailable(f"PostgreSQL: {error}; the connection is closed")
    if isinstance(error, TimeoutError):
        return StoreUnavailable("PostgreSQL does not answer: check the server and the network")
    if isinstance(error, OSError):
        return StoreUnavailable(f"PostgreSQL cannot be reached: {error}: check host and port")
    return None


def away(error: Exception) -> StoreUnavailable:
    """StoreUnavailable for any error of a statement of ours."""
    return unavailable(error) or StoreUnavailable(f"PostgreSQL: {error}")


def collided(error: BaseException) -> bool:
    """Whether another transaction was in the way."""
    return isinstance(error, asyncpg.PostgresError) and _state(error) in COLLISIONS


def contended(error: BaseException) -> Contended | None:
    """Contended for an error of a statement after which its unit is run again; None otherwise."""
    if collided(error):
        return Contended(f"other transactions hold what this one needs: {error}")
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Contended(f"a table of this statement was changed beside the stage: {error}")
    return None


def interrupted(error: BaseException) -> Contended | None:
    """As `contended` for a statement of ours, which a person or the server may also cancel.

    A statement of the author that is cancelled is the function's to judge: it may be too slow.
    """
    if isinstance(error, asyncpg.QueryCanceledError):
        return Contended(f"{error}: look at statement_timeout of the role, and at who cancels")
    return contended(error)


def refused_at_commit(error: BaseException) -> bool:
    """Whether COMMIT said no, so that it is not in doubt."""
    if isinstance(error, asyncpg.PLPGSQLError):
        return True
    if not isinstance(error, asyncpg.PostgresError):
        return False
    state = _state(error)
    return state.startswith(REFUSED_AT_COMMIT) and state != UNKNOWN_AT_COMMIT


def _state(error: asyncpg.PostgresError) -> str:
    return str(getattr(error, "sqlstate", None) or "")
