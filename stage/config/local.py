"""The socket beside the database, which the stage opens and the command line looks for."""

from __future__ import annotations

from pathlib import Path

SQLITE = "sqlite:///"
MEMORY = ":memory:"


def local_socket(database: str) -> Path | None:
    """Its path; None for a database in memory, which no other process can find."""
    name = database.removeprefix(SQLITE)
    return None if name == MEMORY else Path(f"{name}.sock").absolute()
