"""The files that a start opens or makes, each of them unusable: one sentence, or it does without.

The sentence names the path, and no traceback stands before it. The system's own errors are real:
a folder in the place of a file, a file in that of a folder, a loop of links, and limits of the
process. Root may read and write every file, so that owner and mode are tested as another user.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from stage.demo.chain import free_ports
from tests.forked import ROOT, inherited, stage

DECLARED = """
from stage import Stage

stage = Stage("payment", accepts=dict)

@stage.transaction(compensation=None, reason="it reads")
async def look(tx, saga) -> None: ...
"""
LIMIT_SECONDS = 60.0
WORKERS = ("--workers", "2")
BEARER = ("--external", "psp=http://127.0.0.1:9", "--external", "psp.bearer_file=given")
TOKENS = ("--upstream", "order=http://127.0.0.1:9", "--upstream", "order.accept_file=given")
AS_ROOT = os.geteuid() == 0


def serve(folder: Path, *more: str, auth: str = "none") -> tuple[str, ...]:
    (folder / "pay.py").write_text(DECLARED)
    (port,) = free_ports(1)
    return (
        *("serve", "pay:stage", "--port", str(port), "--log-format", "json"),
        *(("--auth", auth) if auth else ()),
        *more,
    )


def database(name: str) -> tuple[str, str]:
    return ("--database", f"sqlite:///{name}")


def folder_at(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir(parents=True)


def loop_at(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(name)


def file_at(name: str, mode: int = 0o600) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(b"")
        (folder / name).chmod(mode)

    return make


def closed_folder(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).mkdir(mode=0o500)


P = database("p.db")
UNUSABLE: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "the database is a folder": (folder_at("p.db"), P, r"p\.db: Is a directory: give the path of"),
    "the database is a loop": (loop_at("p.db"), P, r"p\.db: .*without a symbolic link"),
    "its folder is a file": (
        *(file_at("data"), database("data/p.db")),
        r"data/p\.db: Not a directory: a part of the path is a file",
    ),
    "its folder is missing": (lambda _: None, database("data/p.db"), r"data/p\.db.*check the path"),
    "the lock is a folder": (folder_at("p.db.lock"), P, r"p\.db\.lock: Is a directory: give"),
    "the lock is a loop": (loop_at("p.db.lock"), P, r"p\.db\.lock: .*no symbolic link"),
    "the log is a folder": (folder_at("p.db-wal"), P, r"p\.db-wal"),
    "the index is a folder": (folder_at("p.db-shm"), P, r"p\.db.*-shm beside it"),
    "what is left of a making is a folder": (folder_at("p.db.making"), P, r"p\.db\.making"),
    "the settings are a folder": (folder_at("given"), ("--config", "given"), r"given: cannot be"),
    "a key of the payloads is a folder": (
        *(folder_at("given"), (*P, "--payload-key-file", "given")),
        r"payload_key_file given cannot be read",
    ),
    "a bearer is a folder": (folder_at("given"), (*P, *BEARER), r"bearer_file given cannot be"),
    "a bearer is missing": (lambda _: None, (*P, *BEARER), r"bearer_file given cannot be read"),
    "a certificate is a folder": (
        *(folder_at("given"), (*P, "--tls-cert", "given")),
        r"tls_cert given cannot be read",
    ),
    "a certificate is missing": (
        *(lambda _: None, (*P, "--tls-cert", "given")),
        r"tls_cert given cannot be read",
    ),
    "the list of workers is a folder": (
        *(folder_at("p.db.workers"), (*P, *WORKERS)),
        r"the list .*p\.db\.workers",
    ),
    "the file of a worker is a folder": (folder_at("p.1.db"), (*P, *WORKERS), r"p\.1\.db"),
    "the lock of a worker is a folder": (
        *(folder_at("p.1.db.lock"), (*P, *WORKERS)),
        r"p\.1\.db\.lock: Is a directory",
    ),
}
ACCESS: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "its folder may not be written to": (
        *(closed_folder("data"), database("data/p.db")),
        r"data/p\.db.*owner and the mode",
    ),
    "the database may not be read": (file_at("p.db", 0), P, r"p\.db.*owner and the mode"),
    "the lock is another's": (file_at("p.db.lock", 0), P, r"p\.db\.lock.*owner and the mode"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_start_ends_with_the_path_and_the_fix(tmp_path: Path, case: str) -> None:
    """Status 2, and one line behind those of the log."""
    arrange, more, expected = UNUSABLE[case]
    refused(tmp_path, arrange, more, expected)


@pytest.mark.skipif(AS_ROOT, reason="root may read and write everything")
@pytest.mark.parametrize("case", ACCESS)
def test_a_start_that_may_not_says_so(tmp_path: Path, case: str) -> None:
    """Owner and mode of the file, or of its folder."""
    arrange, more, expected = ACCESS[case]
    refused(tmp_path, arrange, more, expected)


def test_a_file_of_accepted_tokens_that_is_a_folder_ends_a_start(tmp_path: Path) -> None:
    """Where callers have names."""
    (tmp_path / "given").mkdir()
    done = stage(*serve(tmp_path, *P, *TOKENS, auth=""), cwd=tmp_path)
    assert 2 == done.status
    said(done.err, r"accept_file given cannot be read")


def refused(
    folder: Path, arrange: Callable[[Path], None], more: tuple[str, ...], expected: str
) -> None:
    arrange(folder)
    done = stage(*serve(folder, *more), cwd=folder)
    assert 2 == done.status, done.err
    said(done.err, expected)


def said(err: str, expected: str) -> None:
    lines = [line for line in err.splitlines() if not line.startswith("{")]
    assert 1 == len(lines) and lines[0].startswith("stage: "), err
    assert re.search(expected, lines[0]), lines[0]


LIMITS = {
    "no byte may be written": ("ulimit -f 0", r"p\.db\.lock: File too large: let the process"),
    "no file may be opened": ("ulimit -n 12", r"may open 12 files, which is too few"),
    "the file of the database may not grow": ("ulimit -f 8", r"p\.db"),
}


@pytest.mark.execs
@pytest.mark.parametrize("case", LIMITS)
def test_a_start_that_meets_a_limit_says_which(tmp_path: Path, case: str) -> None:
    """As on a full disk, and where descriptors are few."""
    limit, expected = LIMITS[case]
    command = (sys.executable, "-m", "stage", *serve(tmp_path, *P))
    done = subprocess.run(
        ("sh", "-c", f'{limit}; exec "$@"', "sh", *command),
        cwd=tmp_path,
        env={**inherited(), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert 2 == done.returncode, done.stderr
    said(done.stderr, expected)


@pytest.mark.parametrize(
    "name, event", [("p.db.running", "suspects_not_kept"), ("p.db.sock", "no_local_socket")]
)
def test_a_stage_serves_without_what_it_can_do_without(
    tmp_path: Path, name: str, event: str
) -> None:
    """A warning names it: the page of suspects, and the socket for operators on this machine."""
    (tmp_path / name).mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "stage", *serve(tmp_path, *P)],
        cwd=tmp_path,
        env={**inherited(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"listening on ")
            process.terminate()
            _, err = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            process.kill()
    assert 0 == process.returncode
    lines = [msgspec.json.decode(line) for line in err.splitlines()]
    (warned,) = [line for line in lines if line["event"] == event]
    assert "warning" == warned["level"] and name in warned["detail"]
