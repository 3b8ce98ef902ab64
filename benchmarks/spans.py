"""Runs the collector that counts, and asks it how many sagas it has seen served."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks.processes import LOOPBACK, ended, free_port, until_listening

ANSWER_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Spans:
    """The collector that listens at that URL."""

    url: str

    def served(self) -> int:
        """Spans of requests that were served. A stage has exported all of them once it ended."""
        with urlopen(f"{self.url}/served", timeout=ANSWER_SECONDS_MAX) as answer:  # noqa: S310 - http
            return int(json.load(answer))


@contextmanager
def counting(folder: Path) -> Iterator[Spans]:
    """The collector while it runs."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.services.collector", "--port", str(port)]
    with (folder / "collector.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until_listening(port, process)
        yield Spans(f"http://{LOOPBACK}:{port}")
    finally:
        ended(process)
