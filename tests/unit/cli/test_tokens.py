"""Keys of callers, the doors of a real process, and what the command line shows by itself."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from stage.wire.tokens import is_accepted, parse_accept_lines
from tests.unit.cli.programs import ROOT, stage
from tests.unit.cli.test_start import DECLARED, failed
from tests.waits import HANG_SECONDS

KEYS = (
    *("--upstream", "order.accept_file=keys/order.accept"),
    *("--operator", "kim.accept_file=keys/kim.accept", "--operator", "kim.role=operator"),
)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(DECLARED)
    return tmp_path


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[list[str]]:
    """`stage serve`: the URLs that it says it listens on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stage", "serve", "pay:payment", "--port", "0", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "STAGE_LOG_FORMAT": "json"},
    )
    assert process.stdout is not None
    try:
        count = 2 if "--admin-port" in options else 1
        yield [process.stdout.readline().split()[-1] for _ in range(count)]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        process.stdout.close()


def code_of(url: str, **headers: str) -> int:
    """The code that a GET is answered with."""
    try:
        with urlopen(Request(url, headers=headers), timeout=HANG_SECONDS) as response:
            return int(response.status)
    except HTTPError as error:
        error.close()
        return error.code


def test_a_pair_is_written_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    """NAME.token and NAME.accept, 0600; --rotate keeps the hash of before as a second line."""
    assert 0 == stage("keys", "new", "order", cwd=tmp_path).status
    token, accept = tmp_path / "keys/order.token", tmp_path / "keys/order.accept"
    assert [0o600, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in (token, accept)]
    first = token.read_text(), accept.read_text()
    assert first[0].strip() not in first[1]

    failed(stage("keys", "new", "order", cwd=tmp_path), "already", "--rotate")
    assert first == (token.read_text(), accept.read_text())

    assert 0 == stage("keys", "new", "order", "--rotate", cwd=tmp_path).status
    assert token.read_text() != first[0]
    assert accept.read_text().splitlines()[1:] == first[1].splitlines()


def test_a_rotation_that_failed_halfway_keeps_the_token_in_use(tmp_path: Path) -> None:
    """The disk was full between the two files: the caller still shows the token of before."""
    assert 0 == stage("keys", "new", "order", cwd=tmp_path).status
    token, accept = tmp_path / "keys/order.token", tmp_path / "keys/order.accept"
    in_use = token.read_text().strip()
    blocks = tmp_path / "keys/order.token.new"
    for _ in range(2):
        blocks.mkdir()
        failed(stage("keys", "new", "order", "--rotate", cwd=tmp_path), "cannot be written")
        blocks.rmdir()
        assert in_use == token.read_text().strip()
        assert is_accepted(in_use, parse_accept_lines(accept.read_text()))
    assert 0 == stage("keys", "new", "order", "--rotate", cwd=tmp_path).status
    digests = parse_accept_lines(accept.read_text())
    assert 2 == len(digests)
    assert is_accepted(in_use, digests) and is_accepted(token.read_text().strip(), digests)


def test_a_rotation_where_the_token_is_elsewhere_keeps_the_latest_line(tmp_path: Path) -> None:
    """The token went to the caller, or is of another pair: the file of hashes alone can say it."""
    for number in range(2):
        assert 0 == stage("keys", "new", "order", *["--rotate"] * number, cwd=tmp_path).status
    token, accept = tmp_path / "keys/order.token", tmp_path / "keys/order.accept"
    latest = token.read_text().strip()
    for left in (None, "another" * 7):
        token.unlink()
        if left is not None:
            token.write_text(left)
        assert 0 == stage("keys", "new", "order", "--rotate", cwd=tmp_path).status
        assert is_accepted(latest, parse_accept_lines(accept.read_text()))
        latest = token.read_text().strip()


def test_a_stage_with_neighbours_and_without_names_does_not_start(module: Path) -> None:
    """Unless --auth none is said, which listens on loopback only."""
    upstream = ("--upstream", "order=http://127.0.0.1:1")
    done = stage("serve", "pay", *upstream, cwd=module)
    failed(done, "order has no accept_file", "stage keys new order", "--auth none")
    done = stage("serve", "pay", *upstream, "--auth", "none", "--host", "0.0.0.0", cwd=module)
    failed(done, "auth is none and host is 0.0.0.0", "127.0.0.1")


def test_the_command_line_uses_the_socket_beside_the_database(module: Path) -> None:
    """Without an option it is an admin there, under the name of its user; the file is private."""
    for name in ("order", "kim"):
        stage("keys", "new", name, cwd=module)
    with serving(module, *KEYS) as (url,):
        beside = module / "stage.db.sock"
        assert 0o600 == stat.S_IMODE(beside.stat().st_mode)
        sent = ("--id", "s-1", "--as", "order", "--token-file", "keys/order.token")
        assert 0 == stage("send", url, '{"amount": 1}', *sent, cwd=module).status
        assert "s-1" in stage("sagas", cwd=module).out
        assert 0 == stage("forget", "s-1", "--reason", "erasure", cwd=module).status

        remote = ("--url", url, "--token-file", "keys/kim.token")
        assert "s-1" in stage("sagas", *remote, cwd=module).out
        refused = stage("forget", "s-1", "--reason", "erasure", *remote, cwd=module)
        assert (1, True) == (refused.status, "operator 'kim' may not" in refused.err)
        assert 1 == stage("sagas", "--url", url, cwd=module).status
    assert not beside.exists()


def test_the_public_port_has_the_protocol_alone(module: Path) -> None:
    """Health, metrics and operators have the admin port; metrics need no token there."""
    for name in ("order", "kim"):
        stage("keys", "new", name, cwd=module)
    kim = f"Bearer {(module / 'keys/kim.token').read_text().strip()}"
    with serving(module, *KEYS, "--admin-port", "0") as (public, admin):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (404, 200) == (code_of(public + path), code_of(admin + path))
        for path in ("/sagas", "/docs", "/openapi.json"):
            assert 401 == code_of(admin + path)
            assert 404 == code_of(public + path, Authorization=kim)
            assert 200 == code_of(admin + path, Authorization=kim)
        assert 401 == code_of(f"{public}/.well-known/stage")
        assert 200 == code_of(f"{public}/.well-known/stage", Authorization=kim)


def test_metrics_of_a_single_port_need_a_name(module: Path) -> None:
    """Without an admin port anybody learns only whether it is up."""
    for name in ("order", "kim"):
        stage("keys", "new", name, cwd=module)
    with serving(module, *KEYS) as (url,):
        assert [200, 200, 401] == [
            code_of(url + path) for path in ("/healthz", "/readyz", "/metrics")
        ]
