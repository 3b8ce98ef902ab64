"""`python -m MODULE` at the price of a fork, for every process of ours that a test starts.

A start by exec costs half a second of processor time, nearly all of it imports, and the tests start
many hundred processes. So one process, the mother, has imported the rooms, and `subprocess` starts
a child of it wherever a test asks for `[sys.executable, "-m", ...]` and no more than that. The
child has a pid, an environment, a working directory, streams and a path of its own, belongs to the
test, runs its module as `python -m` does, and ends and dies as any other process.

A test of a start itself carries `@pytest.mark.execs`: its processes are started by exec.

The workers of pytest are forked as well, from a process that has imported the tests
(`tests/workers.py`).

The mother is told on a socket, one message each: what to run, and the descriptors of its standard
input, output and error. She answers with the pid.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import inspect
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COMMAND_SECONDS_MAX = 100.0
MESSAGE_BYTES_MAX = 200_000
FORK_SECONDS_MAX = 60.0
DESCRIPTORS_MAX = 4_096
"""The mother has fewer; a child keeps its streams alone."""
KILLED = 128
"""A signal that ended a command, as a shell says it: 128 and its number."""
PR_SET_CHILD_SUBREAPER = 36
WARM = (
    "aiohttp.web",
    "stage.bootstrap",
    "stage.cli.root",
    "stage.demo.chain",
    "stage.store.postgres.store",
)
"""The mother imports these: a start of ours takes its time for them."""
WARM_FOR: Mapping[str, Sequence[str]] = {
    "temporal": ("temporalio.client", "temporalio.worker"),
    "--otlp-endpoint": (
        "opentelemetry.exporter.otlp.proto.http.trace_exporter",
        "opentelemetry.sdk.trace.export",
        "stage.telemetry.fast.install",
    ),
}
"""These as well, from the first start on whose arguments have that word: many have none of them."""
PLAIN: Mapping[str, Any] = {
    "close_fds": True,
    "preexec_fn": None,
    "pass_fds": (),
    "startupinfo": None,
    "creationflags": 0,
    "shell": False,
    "start_new_session": False,
    "process_group": -1,
    "uid": None,
    "gid": None,
    "gids": None,
    "umask": -1,
}
"""A start that is to be a fork asks for streams, a directory and an environment alone."""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def stage(*arguments: str, cwd: Path | None = None, stdin: str = "", **environ: str) -> Done:
    """`stage ARGUMENTS` in a process of its own, without the STAGE_ variables of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "stage", *arguments],
        cwd=cwd,
        input=stdin,
        env={**inherited(), "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **environ},
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )
    status = done.returncode
    return Done(status if status >= 0 else KILLED - status, done.stdout, done.stderr)


def inherited() -> dict[str, str]:
    """The environment without settings of a stage."""
    return {name: text for name, text in os.environ.items() if not name.startswith("STAGE_")}


class Forking(subprocess.Popen[Any]):
    """`subprocess.Popen` that forks the mother where a start is one of `python -m` and plain.

    Only the step between the pipes and the pid is another one. It is private to `subprocess`, so
    `install` looks whether it is the one that we know.
    """

    def _execute_child(self, *given: Any) -> None:
        asked = dict(zip(STEP, given, strict=True))
        words = _words(asked) if _allowed else None
        mother = None if words is None else _mother_of(words)
        if words is None or mother is None:
            super()._execute_child(*given)  # type: ignore[misc]
            return
        pipes = [asked[name] for name in PIPES]
        streams = [
            given if given != -1 else standard
            for standard, given in enumerate((pipes[0], pipes[3], pipes[5]))
        ]
        environ = os.environ if asked["env"] is None else asked["env"]
        order = {
            "module": words[1],
            "arguments": words[2:],
            "cwd": os.fsdecode(asked["cwd"] or os.getcwd()),
            "environ": {os.fsdecode(name): os.fsdecode(text) for name, text in environ.items()},
        }
        self.pid = mother.child(order, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
STEP = (
    *("args", "executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo"),
    *("creationflags", "shell", *PIPES, "restore_signals", "gid", "gids", "uid", "umask"),
    *("start_new_session", "process_group"),
)
"""The arguments of the step that Forking replaces, in CPython 3.11 to 3.13."""
_allowed = True
_known = False


def install() -> None:
    """Let every start of this process be a fork where it can be."""
    global _known
    if subprocess.Popen is Forking:
        return  # a worker: the process that it was forked from did so
    step = inspect.signature(getattr(subprocess.Popen, "_execute_child", install)).parameters
    _known = ("self", *STEP) == tuple(step)
    if _known:
        subprocess.Popen = Forking  # type: ignore[misc]


def says() -> str:
    """Why starts are slow, or nothing."""
    return "" if _known else "starts are by exec: subprocess has another step than tests/forked.py"


def installed() -> bool:
    """Whether starts of this process are forks: this Python starts programs as we know it."""
    return subprocess.Popen is Forking


@contextmanager
def by_exec() -> Iterator[None]:
    """Every start in here is one by exec, as a user gives it."""
    global _allowed
    before, _allowed = _allowed, False
    try:
        yield
    finally:
        _allowed = before


def _words(asked: Mapping[str, Any]) -> list[str] | None:
    """The words behind the interpreter; None where more is asked for than a fork gives."""
    if not isinstance(asked["args"], list | tuple) or asked["executable"] is not None:
        return None
    python, *words = [os.fsdecode(word) for word in asked["args"]]
    plain = all(asked[name] == usual for name, usual in PLAIN.items())
    plain = plain and Path(os.fsdecode(asked["cwd"] or ".")).is_dir()
    return words if plain and python == sys.executable and len(words) > 1 else None


OURS = ("stage", "tests", "upstream_stub", "downstream_stub")
"""Modules of these packages are forked, and no other program is but the workers of pytest."""
WORKER = ("-u", "-c", "import sys;exec(eval(sys.stdin.readline()))")
"""The words of such a worker: it reads from execnet what else it is to do."""


def _mother_of(words: Sequence[str]) -> Mother | None:
    """The process that forks for such a start; None where a program is to be one by exec."""
    if tuple(words) == WORKER:
        return of_workers
    return _mother() if words[0] == "-m" and words[1].partition(".")[0] in OURS else None


class Mother:
    """A process that forks for this one, as this one sees it."""

    def __init__(self, way: socket.socket, seconds_max: float = FORK_SECONDS_MAX) -> None:
        self._turn = Lock()
        """One start at a time: threads of one test may ask."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        way.settimeout(seconds_max)
        self._way = way

    def child(self, order: Mapping[str, Any], streams: Sequence[int]) -> int:
        """Start one; its pid."""
        with self._turn:
            # The process that forks it is gone at once, and the kernel gives it to this one.
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(self._way, [json.dumps(order).encode()], streams)
                answer = self._way.recv(MESSAGE_BYTES_MAX)
            finally:
                self._libc.prctl(PR_SET_CHILD_SUBREAPER, 0)
        assert answer, "the process that forks has ended"
        return int(answer)

    def end(self) -> None:
        """Let it go: it ends, and its children live on."""
        self._way.close()


of_workers: Mother | None = None
"""The process that has imported the tests, where several workers run them."""


@cache
def _mother() -> Mother:
    """The process that has imported the rooms; it ends with this one."""
    ours, its = way()
    with its, by_exec():
        process = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-m", "tests.forked"],
            cwd=ROOT,
            env=inherited(),
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
        )
    mother = Mother(ours)
    atexit.register(process.wait)
    atexit.register(mother.end)  # which comes first
    return mother


def way() -> tuple[socket.socket, socket.socket]:
    """The two ends between a process that forks and the one that asks."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def main() -> None:
    """Fork a child for every message until nobody is there any more."""
    path = _own_path()
    _warm(WARM)
    cold = dict(WARM_FOR)
    user = socket.socket(fileno=os.dup(0))
    while message := asked(user):
        order, streams = message
        for word in cold.keys() & set(order["arguments"]):
            _warm(cold.pop(word))
        if born(user, streams):
            _be(order, streams, path)


def asked(user: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next order, and the streams of its child; None once nobody is there any more."""
    message, streams, _, _ = socket.recv_fds(user, MESSAGE_BYTES_MAX, 3)
    return (json.loads(message), streams) if message else None


def born(user: socket.socket, streams: Sequence[int]) -> bool:
    """Fork a child of the process that asks, and answer with its pid. True: this is the child."""
    read, write = os.pipe()
    between = os.fork()
    if between == 0:
        between = os.getpid()
        child = os.fork()
        if child == 0:
            # A program may look for its parent: the one that it has from the first moment on.
            while os.getppid() == between:
                time.sleep(0.0005)
            return True
        os.write(write, str(child).encode())
        os._exit(0)
    os.waitpid(between, 0)  # from now on it is a child of the process that asks
    user.send(os.read(read, 32))
    for number in (read, write, *streams):
        os.close(number)
    return False


def _warm(modules: Iterable[str]) -> None:
    """Import more; one that is not installed is missed by the program that needs it."""
    for module in modules:
        with suppress(ImportError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _own_path() -> list[str]:
    """The path that every interpreter here has, without the working directory and PYTHONPATH."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [folder for folder in sys.path[1:] if folder not in given]


def _be(order: Mapping[str, Any], streams: Sequence[int], path: Sequence[str]) -> None:
    """Be `python -m MODULE` with these arguments, and end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(len(streams), DESCRIPTORS_MAX)
    surround(order)
    given = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    # The folder of an editable installation is in both, and stands once.
    sys.path[:] = [order["cwd"], *given, *(folder for folder in path if folder not in given)]
    sys.argv[:] = [order["module"], *order["arguments"]]
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    # As for any program, what it runs is imported anew; a package keeps its own module.
    for name in (order["module"], f"{order['module']}.__main__"):
        if name in sys.modules and not hasattr(sys.modules[name], "__path__"):
            del sys.modules[name]
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise  # the interpreter writes what it was given
        end(ended.code or 0)
    end(0)


def surround(order: Mapping[str, Any]) -> None:
    """Take the environment and the directory of an order, and open the standard streams."""
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    _open_streams()


def end(status: int) -> None:
    """End as the interpreter does, but let the kernel free all that was imported at once.

    To drop each object of the rooms takes a third of what a short process uses: nearly all are
    shared with the mother until then.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # the interpreter finds it too, and ends as it always does
    os._exit(status & 0xFF)


def _open_streams() -> None:
    """Open the standard streams as the interpreter does: each knows what kind its own one is."""
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, (name, errors) in enumerate(
        (("stdin", "strict"), ("stdout", "strict"), ("stderr", "backslashreplace"))
    ):
        raw = os.fdopen(number, "wb" if number else "rb", closefd=False)
        stream = io.TextIOWrapper(
            raw,
            encoding="utf-8",
            errors=errors,
            line_buffering=name == "stderr" or raw.isatty(),
            write_through=at_once,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main()
