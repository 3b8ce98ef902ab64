"""Compiles test modules before several workers need them.

pytest compiles a module of tests itself, for its assertions, and keeps the result. On a fresh
checkout all workers come to the same module at the same moment, and each would compile all of them.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

FEW = 30
"""Fewer are left to the workers: two processes more would take longer."""


def stale(folder: Path, compiled_for: Path | None) -> list[str]:
    """The test modules in a top-level folder that pytest has not compiled since they changed.

    `compiled_for` is `sys.pycache_prefix`.
    """
    found: list[str] = []
    for source in sorted(folder.rglob("test_*.py")):
        beside = source.parent / "__pycache__"
        if compiled_for is not None:
            beside = compiled_for / source.parent.relative_to(source.anchor)
        changed = source.stat().st_mtime
        made = beside.glob(f"{source.stem}.*-pytest-*.pyc")
        if not any(each.stat().st_mtime >= changed for each in made):
            found.append(".".join(source.relative_to(folder.parent).with_suffix("").parts))
    return found


def compile_all(modules: Sequence[str]) -> None:
    """Import them in two processes that end at once; one that cannot be imported fails later.

    They begin at both ends, as what both import is compiled by the one that comes first.
    """
    children = [_importing(order) for order in (modules[::2], modules[1::2][::-1])]
    for child in children:
        os.waitpid(child, 0)


def _importing(modules: Iterable[str]) -> int:
    """A process that imports them; its pid."""
    if child := os.fork():
        return child
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in modules:
                try:
                    importlib.import_module(module)
                except BaseException:  # noqa: S112 - collection says so, with its place
                    continue
    finally:
        os._exit(0)
