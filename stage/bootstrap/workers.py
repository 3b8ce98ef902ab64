"""The parent of the workers of one stage: it starts them, restarts one that ended, and ends all.

It serves nothing and holds no database, so that nothing of a saga is lost with it, and a worker
that misses it comes to its end in order. Each side says a line in a pipe to the other: the
worker `up` once it has its database, then the parent the ports to listen on, then the worker
`ready`; or `failed` with the reason.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap.code_files import CodeFiles
from stage.bootstrap.database import MEMORY, database_file, migration_folders
from stage.bootstrap.process_log import announce
from stage.bootstrap.seat import Seat
from stage.config import Config
from stage.core.errors import ConfigurationError, StageError
from stage.engine.workers.placement import Placement
from stage.ports.file_errors import said
from stage.store.postgres.address import POSTGRESQL
from stage.store.sqlite.file_set import (
    FileSet,
    check_listed,
    member_path,
    prepare_files,
    read_file_set,
)
from stage.store.sqlite.identity import is_made
from stage.telemetry import logs
from stage.telemetry.streams import finish_streams

AGAIN_SECONDS: Final = 0.1
AGAIN_SECONDS_MAX: Final = 5.0
STEADY_SECONDS: Final = 10.0
"""A worker that has lived so long is started anew at once when it ends."""
FAILED: Final = 2
BROKEN: Final = 1
UP: Final = b"up"
READY: Final = b"ready"
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Serve = Callable[[Config, Seat, "Orders"], None]
"""Serves as one worker until it is told to end."""


def file_set_of(stage: StageDeclaration[Any, Any], config: Config) -> FileSet | None:
    """The list of the files of workers, where the configured database is the first of several."""
    if config.database.startswith(POSTGRESQL) or config.database.endswith(MEMORY):
        return None
    return read_file_set(database_file(stage, config).path)


def refuse_workers(stage: StageDeclaration[Any, Any], config: Config) -> None:
    """Raise ConfigurationError for a server of another's, which starts no workers."""
    if config.workers > 1 or file_set_of(stage, config) is not None:
        raise ConfigurationError(
            "the stage is served by several workers, which `stage serve` alone starts: use that,"
            " or a database of one process"
        )


class Orders:
    """The orders of a parent to its worker, and the reports of that."""

    def __init__(self, heard: int, reports: int, parent: int) -> None:
        self.heard = heard
        """The descriptor to read from; at its end the parent has gone."""
        self.parent = parent
        """The process that gives them."""
        self._reports = reports

    def tell(self, line: bytes) -> None:
        """Tell the parent. It may have gone."""
        with suppress(OSError):
            os.write(self._reports, line + b"\n")


class _Worker:
    """A worker as its parent knows it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid = 0
        self.up = self.ready = False
        self.failure = ""
        self.says = self.heard = -1
        self.started_at = 0.0
        self.again_at: float | None = None
        self.again_seconds = AGAIN_SECONDS

    @property
    def runs(self) -> bool:
        """Whether there is a process."""
        return self.pid != 0

    def close(self) -> None:
        """Close the pipes."""
        for each in (self.says, self.heard):
            if each >= 0:
                os.close(each)
        self.says = self.heard = -1


def serve_workers(stage: StageDeclaration[Any, Any], config: Config, serve: Serve) -> None:
    """Serve with several processes until a signal ends them. Raises ConfigurationError."""
    count, placement, first = config.workers, None, Path()
    _refuse(config)
    with _ends_at_once():
        if not config.database.startswith(POSTGRESQL):
            placement = Placement(_files(stage, config).sizes)
            count, first = placement.members, database_file(stage, config).path
        with _private_folder(count) as folder:
            seats = [
                Seat(index=index, processes=count, folder=folder, placement=placement, first=first)
                for index in range(count)
            ]
            _Parent(stage, config, seats, serve).run()


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Let a signal end a start that waits for its files, in order: nothing has been answered yet.

    The default action would not do: the kernel keeps it from the first process of a container.
    """
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


@contextmanager
def _private_folder(count: int) -> Iterator[Path]:
    """A folder for the sockets of so many workers. Raises ConfigurationError."""
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="stage-")))
            with closing(socket.socket(socket.AF_UNIX)) as tried:
                tried.bind(str(folder / f"{count}.sock"))
            (folder / f"{count}.sock").unlink()
        except OSError as error:
            raise ConfigurationError(
                f"workers find no place for the sockets between them: {error}. Give TMPDIR= a"
                " folder with a short path, on this machine, that may be written to"
            ) from error
        yield folder


def _files(stage: StageDeclaration[Any, Any], config: Config) -> FileSet:
    """The files of all workers. Where no number of them is set, it is that of before."""
    file = database_file(stage, config)
    before = read_file_set(file.path)
    workers = config.workers
    if before is not None and workers == 1 and "workers" not in config.origins:
        workers = before.sizes[-1]
    files = prepare_files(file, migration_folders(stage), workers)
    if before is not None and before.sizes != files.sizes:
        logs.default_logger().warning(
            "workers_changed", before=before.sizes[-1], after=workers, processes=max(files.sizes)
        )
    return files


def make_files(stage: StageDeclaration[Any, Any], config: Config) -> list[Path]:
    """Make the files of all workers; their paths. Raises ConfigurationError where there is one."""
    _refuse(config)
    file = msgspec.structs.replace(database_file(stage, config), must_exist=False)
    if read_file_set(file.path) is not None or is_made(file.path):
        raise ConfigurationError(
            f"there is a database {file.path} already: `stage serve --workers N` makes it that of"
            " several workers"
        )
    files = prepare_files(file, migration_folders(stage), config.workers)
    return [member_path(file.path, member) for member in range(len(files.databases))]


def _refuse(config: Config) -> None:
    """Raises ConfigurationError for what several files cannot have."""
    if config.database.startswith(POSTGRESQL):
        return
    alone = {
        "an engine of Temporal": config.engine != "embedded",
        "an activity of Step Functions": bool(config.sfn_activity),
        "a database in memory": config.database.endswith(MEMORY),
    }
    if found := [what for what, given in alone.items() if given]:
        raise ConfigurationError(
            f"{found[0]} and several workers with a file each do not go together: use one worker,"
            " or PostgreSQL"
        )


class _Parent:
    """Watches over the workers. One thread, which waits for signals and for lines of theirs."""

    def __init__(
        self,
        stage: StageDeclaration[Any, Any],
        config: Config,
        seats: list[Seat],
        serve: Serve,
    ) -> None:
        self._stage = stage
        self._config = config
        self._seats = seats
        self._serve = serve
        self._workers = [_Worker(seat.index) for seat in seats]
        self._code = CodeFiles(migration_folders(stage))
        self._ports: tuple[int, int | None] | None = None
        self._stopping = False
        self._served = False
        self._failure = ""
        self._statuses: list[int] = []

    def run(self) -> None:
        """Start them, and return when all have ended. Raises ConfigurationError."""
        with ExitStack() as stack:
            self._reserved = stack
            self._signals = stack.enter_context(_signals())
            for worker in self._workers:
                self._start(worker)
            while any(worker.runs or worker.again_at is not None for worker in self._workers):
                self._wait()
                self._reap()
                self._start_again()
        if self._failure:
            raise ConfigurationError(self._failure)
        if any(self._statuses):
            raise SystemExit(next(filter(None, self._statuses)))

    # --- one worker --------------------------------------------------------------------------

    def _start(self, worker: _Worker) -> None:
        heard, to_parent = os.pipe()
        try:
            from_parent, says = os.pipe()
        except OSError:
            os.close(heard)
            os.close(to_parent)
            raise
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody may read them any more
                stream.flush()
        parent = os.getpid()
        # A signal that comes while the worker takes off its parent's actions waits until it has.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
        except OSError:
            for each in (heard, to_parent, from_parent, says):
                os.close(each)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            raise
        if pid == 0:
            os.close(heard)
            os.close(says)
            self._be(worker, Orders(from_parent, to_parent, parent), before)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(to_parent)
        os.close(from_parent)
        worker.pid, worker.heard, worker.says = pid, heard, says
        worker.up = worker.ready = False
        worker.again_at = None
        worker.started_at = time.monotonic()

    def _be(self, worker: _Worker, orders: Orders, mask: Iterable[int]) -> None:
        """Be a worker: this never returns. The signals of `mask` alone are blocked in it."""
        status = 0
        try:
            self._reserved.pop_all()  # theirs is the parent's copy of them
            signal.set_wakeup_fd(-1)
            for number in (*SIGNALS, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for each in self._workers:
                each.close()
            seat = self._seats[worker.index]
            self._serve(self._config_of(seat), seat, orders)
        except StageError as error:
            status = FAILED
            orders.tell(b"failed " + json.dumps(str(error)).encode())
        except BaseException:
            status = BROKEN
            traceback.print_exc()
        finally:
            with suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            finish_streams()
            if os.getppid() != orders.parent:
                self._seats[worker.index].leave()
            os._exit(status)

    def _config_of(self, seat: Seat) -> Config:
        if seat.placement is None:
            return self._config
        path = database_file(self._stage, self._config).path
        return replace(self._config, database=f"sqlite:///{member_path(path, seat.index)}")

    def _start_again(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.again_at is None or now < worker.again_at:
                continue
            if self._stopping:
                worker.again_at = None
                continue
            try:
                with said("it cannot be started"):  # no more processes or files are to be had
                    self._check(worker)
                    self._start(worker)
            except ConfigurationError as error:
                worker.started_at = now  # so that it is tried less and less often
                self._later(worker, str(error))

    def _check(self, worker: _Worker) -> None:
        """Raise ConfigurationError where its file or its code is not the one that it had."""
        self._code.check()
        if (placement := self._seats[worker.index].placement) is not None:
            check_listed(database_file(self._stage, self._config), placement.sizes, worker.index)

    def _later(self, worker: _Worker, reason: str) -> None:
        lived = time.monotonic() - worker.started_at
        if lived >= STEADY_SECONDS:
            worker.again_seconds = AGAIN_SECONDS
        worker.again_at = time.monotonic() + worker.again_seconds
        logs.default_logger().error(
            "worker_ended", worker=worker.index, reason=reason, again_seconds=worker.again_seconds
        )
        worker.again_seconds = min(2 * worker.again_seconds, AGAIN_SECONDS_MAX)

    # --- what is heard -----------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait for a signal, a line of a worker, or the time to start one anew."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._signals, selectors.EVENT_READ)
            for worker in self._workers:
                if worker.heard >= 0:
                    selector.register(worker.heard, selectors.EVENT_READ, worker)
            again = [w.again_at for w in self._workers if w.again_at is not None]
            timeout = max(0.0, min(again) - time.monotonic()) if again else None
            for key, _ in selector.select(timeout):
                if key.data is None:
                    self._hear_signals(self._signals.recv(4096))
                else:
                    self._hear(key.data)

    def _hear_signals(self, numbers: bytes) -> None:
        if any(number in SIGNALS for number in numbers):
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for worker in self._workers:
            if worker.runs:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)

    def _hear(self, worker: _Worker) -> None:
        said = os.read(worker.heard, 65_536)
        if not said:
            os.close(worker.heard)
            worker.heard = -1
            return
        for line in said.splitlines():
            if line == UP:
                worker.up = True
                self._send_ports()
            elif line == READY:
                worker.ready = True
                self._tell()
            elif line.startswith(b"failed "):
                worker.failure = str(json.loads(line.removeprefix(b"failed ")))

    def _send_ports(self) -> None:
        """Say which ports to listen on, once all have their databases: nobody else serves then."""
        if self._ports is None:
            if not all(worker.up for worker in self._workers):
                return
            try:
                self._ports = self._reserve()
            except ConfigurationError as error:
                self._failure = str(error)
                self._stop()
                return
        for worker in self._workers:
            if worker.up and not worker.ready and worker.says >= 0:
                with suppress(OSError):
                    os.write(worker.says, json.dumps(self._ports).encode() + b"\n")

    def _reserve(self) -> tuple[int, int | None]:
        config = self._config
        port = self._reserve_one(config.port, "--port")
        if config.admin_port is None:
            return port, None
        return port, self._reserve_one(config.admin_port, "--admin-port")

    def _reserve_one(self, port: int, option: str) -> int:
        """Keep a port for the workers; its number. Raises ConfigurationError for a taken one.

        A port that many may open is open to other programs of this user as well. So it is tried
        alone first.
        """
        host = self._config.host
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address[:2])
                port = tried.getsockname()[1]
            kept = self._reserved.enter_context(socket.socket(family, socket.SOCK_STREAM))
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.bind((address[0], port))
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else error
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {why}: choose another {option}, or stop what"
                " uses it"
            ) from error
        return port

    def _tell(self) -> None:
        if self._served or not all(worker.ready for worker in self._workers):
            return
        assert self._ports is not None
        self._served = True
        announce(self._config, *self._ports)

    def _reap(self) -> None:
        for worker in self._workers:
            if not worker.runs:
                continue
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: _Worker, status: int) -> None:
        if worker.heard >= 0:
            os.set_blocking(worker.heard, False)
            with suppress(BlockingIOError):
                self._hear(worker)  # its last line
        worker.pid = 0
        worker.close()
        reason, worker.failure = worker.failure, ""
        if self._stopping:
            if status != -signal.SIGTERM:  # that ends one which has not begun to serve
                self._statuses.append(status if status >= 0 else 128 - status)
            return
        if not self._served:
            self._failure = reason or f"worker {worker.index} ended with status {status}"
            self._stop()
            return
        self._later(worker, reason or f"status {status}")


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Signals as bytes to read, one each; afterwards as before."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        numbers = (*SIGNALS, signal.SIGCHLD)
        before = {number: signal.signal(number, _nothing) for number in numbers}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            yield ours
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, action in before.items():
                signal.signal(number, action)


def _nothing(_number: int, _frame: object) -> None:
    """The byte of the signal is read."""
