"""Where and of what a measurement was made, so that it can be repeated and doubted."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("aiohttp", "aiosqlite", "msgspec", "opentelemetry-sdk", "structlog", "uvloop")
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


class Missing(Exception):
    """A tool that the benchmarks need is not installed; the message says how to install it."""


def tool(name: str, package: str) -> str:
    """The path of a tool. Raises Missing."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Missing(f"{name} is not installed: apt-get install {package}")
    return found


def facts(root: Path) -> dict[str, object]:
    """Commit, processor, kernel and versions."""
    return {
        "commit": _said("git", "-C", str(root), "rev-parse", "HEAD"),
        "changed": bool(_said("git", "-C", str(root), "status", "--porcelain", "--", "stage")),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": build(sysconfig.get_config_var("CONFIG_ARGS")),
        "sqlite": sqlite3.sqlite_version,
        "packages": {name: _version(name) for name in PACKAGES},
        "load_before": round(os.getloadavg()[0], 2),
    }


def build(arguments: object) -> str:
    """How the interpreter was built, by the arguments of its `configure`; without its paths.

    An interpreter that was built without these is slower by a tenth.
    """
    if not isinstance(arguments, str):
        return "not known"
    pgo = "PGO" if "--enable-optimizations" in arguments else "no PGO"
    lto = "LTO" if "--with-lto" in arguments else "no LTO"
    return f"{pgo}, {lto}"


def check_disk(folder: Path) -> None:
    """Raise Missing when the folder is in memory, where an fsync costs nothing."""
    kind = _said("stat", "--file-system", "--format", "%T", str(folder))
    if kind in MEMORY_FILE_SYSTEMS:
        raise Missing(f"{folder} is on {kind}: give --folder on a real disk")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _said(*command: str) -> str:
    printed = subprocess.run(command, capture_output=True, text=True, check=False)
    return printed.stdout.strip()
