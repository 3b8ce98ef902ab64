"""The socket beside the database, which the stage opens and the command line looks for."""

from __future__ import annotations

from pathlib import Path

SQLITE = "sqlite:///"
MEMORY = ":memory:"


def local_socket(database: str) -> Path | None:
    """Its path; None for a database without a file: one in memory, or on a server.

    The URL of a server may hold a password, so nothing is made of it.
    """
    name = database.removeprefix(SQLITE)
    if name == MEMORY or not database.startswith(SQLITE):
        return None
    return Path(f"{name}.sock").absolute()
