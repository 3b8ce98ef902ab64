"""The contestants on one PostgreSQL server: one replica of a stage, two replicas, and DBOS.

Each has a database of its own there, and is loaded while the others do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import REFUSED, STAGE, TRACED, Contestant, Place
from benchmarks.figures import Comparison, more_cpu, rate
from benchmarks.peers.systems import ROOT
from stage.demo import postgres_server

DURABLE = ("fsync=on",)


def _on(server: str, each: Contestant, name: str, title: str, replicas: int = 1) -> Contestant:
    """The contestant on a database of that server, which has its name."""

    def command(place: Place, port: int) -> list[str]:
        # The last word counts: the database of the server stands behind that of a file.
        return [*each.command(place, port), "--database", f"{server}/{name}"]

    return replace(each, name=name, title=title, command=command, replicas=replicas)


ONE, TWO = "stage-postgres", "stage-postgres-2"
ON_SERVER_TRACED, ON_SERVER_REFUSED = "stage-postgres-traced", "stage-postgres-compensating"
DBOS = "dbos-postgres"


def stages(server: str) -> tuple[Contestant, ...]:
    """The stage in its several ways; `server` is the URL without a database."""
    return (
        _on(server, STAGE, ONE, "stage, one replica"),
        _on(server, STAGE, TWO, "stage, two replicas", replicas=2),
        _on(server, TRACED, ON_SERVER_TRACED, "stage, one replica, every saga traced"),
        _on(server, REFUSED, ON_SERVER_REFUSED, "stage, one replica, downstream refuses"),
    )


def dbos(server: str, python: Path) -> Contestant:
    """DBOS with its system database and the author's table in one database of the server."""
    url = server.replace("postgresql://", "postgresql+psycopg://")

    def command(place: Place, port: int) -> list[str]:
        return [
            str(python), "-m", "benchmarks.peers.services.dbos_payment",
            "--port", str(port), "--neighbours", place.neighbours,
            "--system", f"{url}/{DBOS}", "--database", f"{url}/{DBOS}",
        ]  # fmt: skip

    environment = {"PYTHONPATH": str(ROOT)}
    return Contestant(name=DBOS, title="DBOS", command=command, environment=environment)


@contextmanager
def server_with(python: Path | None) -> Iterator[tuple[Sequence[Contestant], int]]:
    """A server as durable as by default, the contestants on it, and its process.

    DBOS is among them where there is an interpreter that has it. Raises ChainError.
    """
    with postgres_server.running(*DURABLE) as server:
        url = server.url("").rstrip("/")
        found = stages(url)
        if python is not None:
            found = (*found, dbos(url, python))
        for each in found:
            server.sql(f'CREATE DATABASE "{each.name}"')
        yield found, server.pid


def _compared(
    name: str,
    says: str,
    this: str,
    compared: Callable[..., float],
    goal: float,
    *,
    other: str = ONE,
    at_most: bool = False,
) -> Comparison:
    return Comparison(
        name=name, says=says, this=this, other=other, compared=compared, goal=goal, at_most=at_most
    )


ON_A_SERVER = (
    _compared("P9", "throughput of two replicas against one", TWO, rate, 1.6),
    _compared("P5", "throughput of one replica against DBOS", ONE, rate, 20.0, other=DBOS),
    _compared("P4", "processor time more where every saga is traced and exported",
              ON_SERVER_TRACED, more_cpu, 90.0, at_most=True),
    _compared("P7", "throughput of compensated sagas against completed ones",
              ON_SERVER_REFUSED, rate, 0.60),
)  # fmt: skip
