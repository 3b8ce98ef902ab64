"""P10: how long `stage --help` takes, and how long until a stage is ready to serve."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median

from benchmarks.contestants import STAGE, Place, Running, running
from benchmarks.figures import Figure
from benchmarks.growth.found import Found

STARTS = 10
READY_SECONDS_MAX = 20.0


def until_ready(service: Running) -> None:
    """Return once it says that it takes sagas. Raises RuntimeError when that takes too long."""
    until = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < until:
        try:
            url = f"{service.url}/readyz"
            with urllib.request.urlopen(url, timeout=1.0) as answer:  # noqa: S310 - on loopback
                if answer.status == 200:
                    return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.005)
    raise RuntimeError(f"{service.url} is not ready after {READY_SECONDS_MAX:.0f} s")


def measure(neighbours: str, folder: Path, *, starts: int = STARTS) -> Found:
    """Start both so often, in turns, each stage with a new database."""
    command = [sys.executable, "-m", "stage", "--help"]
    helps: list[float] = []
    serves: list[float] = []
    for number in range(starts):
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        helps.append(time.monotonic() - began)
        place = Place(folder=folder / f"start-{number}", neighbours=neighbours)
        began = time.monotonic()
        with running(STAGE, place) as service:
            until_ready(service)
            serves.append(time.monotonic() - began)
    figures = [
        Figure(name="P10", says=f"stage --help, seconds (median of {starts})",
               value=median(helps), goal=0.15, at_most=True),
        Figure(name="P10", says=f"ready to serve, new database, seconds (median of {starts})",
               value=median(serves), goal=0.8, at_most=True),
    ]  # fmt: skip
    return Found(figures=figures, raw={"help_seconds": helps, "ready_seconds": serves})
