"""The services that are measured side by side, each as a command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.processes import LOOPBACK, ended, free_port, until_listening

HELP_SECONDS_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a contestant runs: its own folder, the neighbours' URL, a collector for its spans."""

    folder: Path
    neighbours: str
    collector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contestant:
    """One service that takes `POST /sagas`."""

    name: str
    title: str
    command: Callable[[Place, int], list[str]]
    environment: Mapping[str, str]
    refuses: bool = False
    """True when 409 is the answer that it should give."""
    scheme: str = "http"
    replicas: int = 1
    """Processes that share the load, each with a port of its own."""


@dataclass(frozen=True, slots=True)
class Running:
    """A contestant that listens."""

    url: str
    pid: int


@contextmanager
def running(contestant: Contestant, place: Place) -> Iterator[Running]:
    """Start it, and end it at the end. Its output goes into a file of its folder."""
    place.folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            contestant.command(place, port),
            env={**os.environ, **contestant.environment},
            stdout=log,
            stderr=log,
        )
        try:
            until_listening(port, process)
            yield Running(f"{contestant.scheme}://{LOOPBACK}:{port}", process.pid)
        finally:
            ended(process)


@contextmanager
def replicas_running(contestant: Contestant, place: Place) -> Iterator[tuple[Running, ...]]:
    """All replicas of it, each in a folder of its own."""
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(
                running(contestant, replace(place, folder=place.folder / str(number)))
            )
            for number in range(contestant.replicas)
        )


def _on_one_cpu(contestant: Contestant) -> Contestant:
    """The contestant on one processor: its threads share an interpreter, and then a cache too."""

    def command(place: Place, port: int) -> list[str]:
        cpu = min(os.sched_getaffinity(0))
        return ["taskset", "-c", str(cpu), *contestant.command(place, port)]

    name, title = f"{contestant.name}-one-cpu", f"{contestant.title}, on one CPU"
    return replace(contestant, name=name, title=title, command=command)


def _ceiling(client: str) -> Callable[[Place, int], list[str]]:
    def command(place: Place, port: int) -> list[str]:
        options = ("--port", str(port), "--neighbours", place.neighbours)
        return _python("ceiling", *options, "--client", client)

    return command


def _handwritten(commits: str, client: str) -> Callable[[Place, int], list[str]]:
    def command(place: Place, port: int) -> list[str]:
        options = ("--port", str(port), "--neighbours", place.neighbours)
        file = str(place.folder / "handwritten.db")
        how = ("--commits", commits, "--client", client)
        return _python("handwritten", *options, "--database", file, *how)

    return command


def _python(service: str, *words: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.services.{service}", *words]


def stage_command(
    place: Place,
    port: int,
    *more: str,
    target: str = "stage.demo.payment:payment",
    external: str = "",
    downstream: str = "",
) -> list[str]:
    """Serve a stage. `external` is another psp's URL, `downstream` a path of the neighbours."""
    return [
        sys.executable, "-m", "stage", "serve", target,
        "--port", str(port), "--auth", "none",
        "--database", f"sqlite:///{place.folder / 'stage.db'}",
        "--external", f"psp={external or place.neighbours}",
        "--downstream", f"shipping={place.neighbours}{downstream}",
        "--upstream", f"order={place.neighbours}",
        *more,
    ]  # fmt: skip


def has_option(option: str) -> bool:
    """True when `stage serve` of this checkout knows it."""
    command = [sys.executable, "-m", "stage", "serve", "--help"]
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=HELP_SECONDS_MAX
    )
    return option in said.stdout.split()


CEILING = Contestant(
    name="ceiling",
    title="two HTTP calls, no database",
    command=_ceiling("session"),
    environment={},
)
CEILING_TRANSPORT = Contestant(
    name="ceiling-transport",
    title="two HTTP calls through the transport of the stage, no database",
    command=_ceiling("transport"),
    environment={},
)
HANDWRITTEN = Contestant(
    name="handwritten",
    title="hand-written handler, two commits, no crash safety",
    command=_handwritten("alone", "session"),
    environment={},
)
GROUPED = Contestant(
    name="handwritten-grouped",
    title="hand-written handler with group commit, no crash safety",
    command=_handwritten("grouped", "session"),
    environment={},
)
GROUPED_TRANSPORT = Contestant(
    name="handwritten-grouped-transport",
    title="the same through the transport of the stage",
    command=_handwritten("grouped", "transport"),
    environment={},
)
STAGE = Contestant(
    name="stage",
    title="stage, tracing off",
    command=lambda place, port: stage_command(place, port, "--log-level", "warning"),
    environment={"OTEL_SDK_DISABLED": "true"},
)
TWO_WORKERS = Contestant(
    name="stage-workers-2",
    title="stage, tracing off, two workers",
    command=lambda place, port: stage_command(
        place, port, "--log-level", "warning", "--workers", "2"
    ),
    environment={"OTEL_SDK_DISABLED": "true"},
)
HANDWRITTEN_ON_ONE_CPU = _on_one_cpu(HANDWRITTEN)
STAGE_ON_ONE_CPU = _on_one_cpu(STAGE)
LOGGED = Contestant(
    name="stage-logged",
    title="stage, tracing off, a log line an event",
    command=stage_command,
    environment={"OTEL_SDK_DISABLED": "true"},
)
TRACED = Contestant(
    name="stage-traced",
    title="stage, every saga traced and exported",
    command=lambda place, port: stage_command(
        place, port, "--log-level", "warning", "--otlp-endpoint", place.collector
    ),
    environment={},
)
REFUSED = Contestant(
    name="stage-compensating",
    title="stage, downstream refuses, everything is compensated",
    command=lambda place, port: stage_command(
        place, port, "--log-level", "warning", downstream="/refusing"
    ),
    environment={"OTEL_SDK_DISABLED": "true"},
    refuses=True,
)
