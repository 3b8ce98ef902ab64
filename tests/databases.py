"""Empty databases of one PostgreSQL server: a database is used again as soon as its test has ended.

A database of its own for each test makes a server slow: each is copied file by file, the server
looks after all of them to its end, and some 300 files each are removed then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from stage.demo.postgres_server import Server

EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
DROP SCHEMA IF EXISTS stage CASCADE;
DROP SCHEMA public CASCADE;
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
"""Leaves what `CREATE DATABASE` makes. A connection that a test left holds no lock any more."""


class Databases:
    """The databases of one server. Those of tests that have ended are free."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._free: list[str] = []
        self._numbers = count(1)

    @contextmanager
    def empty(self) -> Iterator[str]:
        """The URL of an empty database that nobody else has until the end of the block."""
        name = self._emptied() or self._made()
        try:
            yield self._server.url(name)
        finally:
            self._free.append(name)

    def _emptied(self) -> str | None:
        if not self._free:
            return None
        name = self._free.pop()
        self._server.sql(EMPTY, name)
        return name

    def _made(self) -> str:
        name = f"test_{next(self._numbers)}"
        self._server.sql(f"CREATE DATABASE {name}")
        return name
