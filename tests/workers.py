"""Workers of pytest at the price of a fork: one process imports the tests, for all of them.

Each worker collects every test. More than half of its price is imports, which are the same for all.
So the process that a run begins with forks one that imports them, and `tests/forked.py` lets that
one fork each worker that execnet starts. A module that cannot be imported there is imported by the
workers, which say what is wrong with it.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

from tests import forked

IMPORT_SECONDS_MAX = 600.0
"""The first worker waits for all imports, which a fresh checkout compiles."""
IGNORED = (ResourceWarning, ImportWarning, PendingDeprecationWarning, DeprecationWarning)
"""Python begins with these filters."""


def prepare_workers(config: pytest.Config) -> None:
    """Fork the process that forks the workers of this run; it ends with the run."""
    ours, its = forked.way()
    child = os.fork()
    if child == 0:
        try:
            ours.close()
            _fork_workers(config, its)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        os._exit(0)
    its.close()
    mother = forked.of_workers = forked.Mother(ours, IMPORT_SECONDS_MAX)

    def end() -> None:
        forked.of_workers = None
        mother.end()
        os.kill(child, signal.SIGKILL)  # it has nothing to save, and may still import
        os.waitpid(child, 0)

    config.add_cleanup(end)


def modules(config: pytest.Config) -> Iterator[str]:
    """The names of the test modules that the run asks for."""
    here = config.invocation_params.dir
    ignored = [here / path for path in config.getoption("ignore") or ()]
    for asked in config.args:
        path = here / asked.partition("::")[0]
        for file in sorted(path.rglob("test_*.py")) if path.is_dir() else [path]:
            if file.is_relative_to(config.rootpath) and not any(map(file.is_relative_to, ignored)):
                yield ".".join(file.relative_to(config.rootpath).with_suffix("").parts)


def _fork_workers(config: pytest.Config, user: socket.socket) -> None:
    """Import the tests and fork a worker for every message, until nobody is there any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C it ends behind its workers
    _import(modules(config))
    while message := forked.asked(user):
        order, streams = message
        if forked.born(user, streams):
            user.close()
            _work(config, order, streams)


def _import(names: Iterable[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such a module is left to the workers, as a wrong one is
        for name in names:
            with suppress(BaseException):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _work(config: pytest.Config, order: Mapping[str, Any], streams: Sequence[int]) -> None:
    """Be a worker as one by exec is, and end."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    forked.surround(order)
    _forget(config)
    code = order["arguments"][-1]
    main = sys.modules["__main__"] = ModuleType("__main__")
    status = 1
    try:
        exec(code, vars(main))  # noqa: S102 - the line of execnet, as `python -c` runs it
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    forked.end(status)
    os._exit(status)


def _forget(config: pytest.Config) -> None:
    """Set back what pytest has set in the process that the run begins with."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = ["-c"]
    hook: Any = config.pluginmanager.rewrite_hook
    sys.meta_path.remove(hook)
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    warnings.resetwarnings()
    for kind in IGNORED:
        warnings.simplefilter("ignore", kind)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__")
