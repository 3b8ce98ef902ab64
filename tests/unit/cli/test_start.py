"""How the command line starts: quickly, and with every failure reported in one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.cli.programs import ROOT, Done, stage

HEAVY = (
    "aiohttp",
    "aiosqlite",
    "asyncio",
    "http.client",
    "msgspec",
    "opentelemetry",
    "sqlite3",
    "ssl",
    "structlog",
)
DECLARED = """
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

payment = Stage("payment", accepts=Order)
other = 7

@payment.transaction(compensation=None, reason="it reads")
async def reserve(tx, saga) -> None:
    await tx.execute("SELECT 1")
"""
BEHIND_THE_PIVOT = """
@payment.call(to="psp", pivot=True)
async def charge(http, saga) -> None: ...

@payment.call(to="psp")
async def notify(http, saga) -> None: ...

@notify.compensation
async def recall(http, saga, result) -> None: ...
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(DECLARED)
    return tmp_path


def failed(done: Done, *words: str) -> None:
    """Status 2, and one line on stderr beside those of the log that holds the words."""
    assert done.status == 2, done
    (line,) = [line for line in done.err.splitlines() if not line.startswith("{")]
    assert line.startswith("stage: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """A slow import belongs to the verb that needs it (0.15 s for --help)."""
    program = (
        "import json, sys\n"
        "from stage.cli.root import run\n"
        f"status = run({arguments!r})\n"
        f"print(json.dumps([status, [m for m in {HEAVY!r} if m in sys.modules]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [0, []] == json.loads(done.stdout.splitlines()[-1])


def test_help_names_every_verb() -> None:
    """With one line each, not cut."""
    done = stage("--help")
    assert done.status == 0
    verbs = "compensate config db demo openapi sagas send serve show simulate"
    for verb in verbs.split():
        assert f"\n  {verb} " in done.out
    assert "..." not in done.out.partition("Commands:")[2]


@pytest.mark.parametrize(
    "target,words",
    [
        ("nowhere:payment", ("there is no module nowhere", "as Python imports it")),
        ("paj", ("there is no module paj", "did you mean pay?")),
        ("pay.deep:payment", ("there is no module pay.deep",)),
        ("pay:nope", ("has no 'nope'", "it has pay:payment")),
        ("pay:other", ("is a int and not a Stage", "it has pay:payment")),
        ("pay.py:payment", ("is a path", "pay:payment")),
        ("./pay.py", ("is a path", "pay:stage")),
        (":payment", ("names no module", "MODULE:ATTRIBUTE")),
        ("json", ("has no 'stage'", "declare one there")),
    ],
)
def test_a_target_that_is_no_stage_is_reported_with_the_fix(
    module: Path, target: str, words: tuple[str, ...]
) -> None:
    """Module not found, attribute not there, attribute not a Stage."""
    failed(stage("serve", target, cwd=module), *words)


@pytest.mark.parametrize(
    "source,words",
    [
        ("import nothing_like_it", ("needs nothing_like_it", "install it")),
        ("def broken(:", ("SyntaxError", "bad.py, line 1")),
        ("x = 1\n1 / 0", ("ZeroDivisionError", "bad.py, line 2")),
        ("from stage import Stage\nStage('Bad Name', accepts=dict)", ("Bad Name", "use 1 to 48")),
    ],
)
def test_a_module_that_cannot_be_imported_is_reported_with_its_place(
    tmp_path: Path, source: str, words: tuple[str, ...]
) -> None:
    """The author's own mistakes are reported as the author's."""
    (tmp_path / "bad.py").write_text(source)
    failed(stage("serve", "bad:stage", cwd=tmp_path), *words)


def test_a_step_that_cannot_be_compensated_is_refused_at_start(module: Path) -> None:
    """With the fix in the message."""
    with (module / "pay.py").open("a") as source:
        source.write(BEHIND_THE_PIVOT)
    done = stage("serve", "pay:payment", "--external", "psp=http://127.0.0.1:1", cwd=module)
    failed(done, "'notify'", "after the pivot 'charge'", "move it before the pivot")


def test_all_configuration_errors_are_reported_at_once(module: Path) -> None:
    """A line each, before the module is even looked for."""
    done = stage("serve", "pay", "--port", "x", "--upstream", "y", cwd=module, STAGE_PROT="1")
    assert done.status == 2
    lines = done.err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == [
        "environment STAGE_PROT",
        "option --port",
        "option --upstream",
    ]
    assert all(line.startswith("stage: ") for line in lines)


def test_usage_errors_have_the_same_form() -> None:
    """They name where help is."""
    failed(stage("serv"), "No such command 'serv'", "stage --help")
    failed(stage("show"), "Missing argument", "stage show --help")
    failed(stage("serve", "x", "--prot", "1"), "--prot", "stage serve --help")


def test_a_port_that_is_taken_is_reported(module: Path) -> None:
    """One line that names another port as the fix."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        done = stage("serve", "pay", "--database", "sqlite:///p.db", "--port", port, cwd=module)
    failed(done, f"cannot listen on 127.0.0.1:{port}", "choose another --port")


def test_a_database_that_cannot_be_used_is_reported(module: Path) -> None:
    """A folder that is not there, and a file that is no database."""
    (module / "text.db").write_text("this is not a database, and long enough to be looked at" * 20)
    failed(stage("db", "status", "pay", "--database", "sqlite:///no/p.db", cwd=module), "no/p.db")
    failed(
        stage("db", "upgrade", "pay", "--database", "sqlite:///text.db", cwd=module),
        "cannot be used",
        "not a SQLite database: check the path",
    )
    failed(
        stage("db", "status", "pay", "--database", "postgres://u:secret@h/d", cwd=module),
        "postgres://***@h/d",
        "sqlite:///FILE",
    )


@pytest.mark.execs
def test_a_reader_that_leaves_is_no_failure() -> None:
    """`stage openapi | head` ends quietly, with status 1: not everything was said."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "stage", "openapi"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (1, b"") == (done.returncode, done.stderr)


def test_the_effective_values_are_shown_with_their_origin(module: Path) -> None:
    """`stage config` takes what `stage serve` takes."""
    (module / "stage.toml").write_text("port = 9000\n")
    done = stage(
        "config",
        "--config",
        "stage.toml",
        "--downstream",
        "shipping=http://h",
        cwd=module,
        STAGE_LOG_LEVEL="debug",
    )
    assert done.status == 0
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in done.out.splitlines()}
    assert lines["port"] == "9000 stage.toml line 1 port"
    assert lines["downstreams.shipping"] == "http://h option --downstream"
    assert lines["log_level"] == "debug environment STAGE_LOG_LEVEL"
    assert lines["host"] == "127.0.0.1 default"


def test_openapi_is_printed_with_or_without_a_stage(module: Path) -> None:
    """The document of the protocol, and that of one stage."""
    plain = json.loads(stage("openapi").out)
    named = json.loads(stage("openapi", "pay", cwd=module).out)
    assert "/sagas" in plain["paths"]
    assert "payment" in named["info"]["title"]


def test_a_file_in_the_working_directory_is_not_the_standard_library(module: Path) -> None:
    """The stage there is found, and a `secrets.py` beside it is not run in place of Python's."""
    for name in ("secrets", "json", "asyncio", "sqlite3"):
        (module / f"{name}.py").write_text("raise SystemExit('run in place of the library')")

    done = stage("openapi", "pay:payment", cwd=module)

    assert 0 == done.status, done.err
    assert "run in place" not in done.err
