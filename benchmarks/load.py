"""wrk as the upstream: closed loop, one saga a request."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("saga.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk saw. Times are in seconds."""

    requests: int
    seconds: float
    p50: float
    p90: float
    p99: float
    mean: float
    status_errors: int
    socket_errors: int

    @property
    def rate(self) -> float:
        """Sagas a second."""
        return self.requests / self.seconds


def offer(
    wrk: str, url: str, *, connections: int, seconds: float, run: str, path: str = ""
) -> Load:
    """Offer sagas on so many connections for so long; `run` makes their ids new.

    With a `path` they go there, to the ingress of another system, with their id as the key.
    """
    told = subprocess.run(
        [
            wrk, "--threads", "1", "--connections", str(connections),
            "--duration", f"{seconds:.0f}s", "--timeout", "30s",
            "--script", str(SCRIPT), url, "--", run, *([path] if path else []),
        ],
        check=True, capture_output=True, text=True, timeout=seconds + 60,
    ).stdout  # fmt: skip
    line = next(line for line in told.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    return Load(
        requests=found["requests"],
        seconds=found["microseconds"] / 1e6,
        p50=found["p50"] / 1e6,
        p90=found["p90"] / 1e6,
        p99=found["p99"] / 1e6,
        mean=found["mean"] / 1e6,
        status_errors=found["status_errors"],
        socket_errors=found["socket_errors"],
    )
