"""A PostgreSQL server of our own on loopback, as durable as it is by default."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine import Missing
from benchmarks.processes import LOOPBACK, ended, free_port, until_listening

PLACES = ("/usr/lib/postgresql/*/bin", "/usr/local/bin", "/usr/bin")
USERS = ("postgres", "nobody")
"""PostgreSQL refuses to run as root: then it runs as one of these."""


def programs() -> Path:
    """The folder with initdb and postgres. Raises Missing."""
    found = [
        folder
        for place in PLACES
        for folder in sorted(Path("/").glob(place.lstrip("/")), reverse=True)
        if (folder / "initdb").exists() and (folder / "postgres").exists()
    ]
    if not found:
        raise Missing("no PostgreSQL server is installed: apt-get install postgresql")
    return found[0]


@contextmanager
def postgres(folder: Path) -> Iterator[tuple[str, int]]:
    """`user@host:port/database` of a new, empty database, and the process of its server.

    Raises Missing.
    """
    where = programs()
    user = next((name for name in USERS if _known(name)), None) if os.geteuid() == 0 else None
    home = Path(tempfile.mkdtemp(dir=folder, prefix="postgres-"))
    process = None
    try:
        if user is not None:
            shutil.chown(home, user)
        data, port = home / "data", free_port()
        made = subprocess.run(
            [where / "initdb", "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8"],
            user=user, cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            raise Missing(f"initdb failed in {home}: {made.stderr.strip().splitlines()[-1:]}")
        with (folder / "postgres.log").open("wb") as log:
            process = subprocess.Popen(
                [where / "postgres", "-D", data, "-h", LOOPBACK, "-p", str(port), "-k", ""],
                user=user, cwd="/", stdout=log, stderr=log,
            )  # fmt: skip
        until_listening(port, process)
        yield f"bench@{LOOPBACK}:{port}/postgres", process.pid
    finally:
        if process is not None:
            ended(process)
        shutil.rmtree(home, ignore_errors=True)


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
