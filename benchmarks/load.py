"""wrk as the upstream: closed loop, one saga a request."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("saga.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load as wrk saw it. Times are in seconds."""

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
    printed = subprocess.run(
        [
            wrk, "--threads", "1", "--connections", str(connections),
            "--duration", f"{seconds:.0f}s", "--timeout", "30s",
            "--script", str(SCRIPT), url, "--", run, *([path] if path else []),
        ],
        check=True, capture_output=True, text=True, timeout=seconds + 60,
    ).stdout  # fmt: skip
    line = next(line for line in printed.splitlines() if line.startswith("RESULT "))
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


def offer_to_all(
    wrk: str, urls: Sequence[str], *, connections: int, seconds: float, run: str
) -> Load:
    """Offer sagas to all of them at the same time, on so many connections together.

    The latencies are those of the one that was slowest: percentiles of several cannot be added.
    """
    if len(urls) == 1:
        return offer(wrk, urls[0], connections=connections, seconds=seconds, run=run)
    shares = [connections // len(urls) + (n < connections % len(urls)) for n in range(len(urls))]
    with ThreadPoolExecutor(len(urls)) as pool:
        asked = [
            pool.submit(offer, wrk, url, connections=share, seconds=seconds, run=f"{run}-{number}")
            for number, (url, share) in enumerate(zip(urls, shares, strict=True))
            if share
        ]
        seen = [each.result() for each in asked]
    return Load(
        requests=sum(each.requests for each in seen),
        seconds=max(each.seconds for each in seen),
        p50=max(each.p50 for each in seen),
        p90=max(each.p90 for each in seen),
        p99=max(each.p99 for each in seen),
        mean=max(each.mean for each in seen),
        status_errors=sum(each.status_errors for each in seen),
        socket_errors=sum(each.socket_errors for each in seen),
    )
