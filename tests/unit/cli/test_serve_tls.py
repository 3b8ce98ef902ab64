"""A real process behind TLS: its addresses, its doors, and how it refuses wrong files."""

from __future__ import annotations

import json
import ssl
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from stage.ports.file_marks import LOOK_SECONDS
from tests.certificates import Authority
from tests.unit.cli.programs import stage
from tests.unit.cli.test_start import DECLARED, failed
from tests.unit.cli.test_tokens import serving
from tests.waits import HANG_SECONDS

SAGA = {
    "saga_id": "s-1",
    "data": {"amount": 1},
    "trail": [{"stage": "order", "at": "2026-11-29T00:00:00Z"}],
}
UPSTREAM = ("--upstream", "order=http://127.0.0.1:9")


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(DECLARED)
    return tmp_path


def options(ca: Authority) -> list[str]:
    cert, key = ca.sign("payment", "127.0.0.1")
    return [
        *("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(ca.file)),
        *UPSTREAM,
    ]


def context_of(ca: Authority, name: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca.file)
    if name:
        context.load_cert_chain(*ca.sign(name, name))
    return context


def read(context: ssl.SSLContext, request: Request | str) -> tuple[int, str]:
    with urlopen(request, context=context, timeout=HANG_SECONDS) as response:
        return response.status, response.read().decode()


def until_shown(ca: Authority, url: str) -> None:
    """Return once it answers under a certificate of that authority."""
    ends_at = time.monotonic() + HANG_SECONDS
    while time.monotonic() < ends_at:
        with suppress(URLError):
            assert 200 == read(context_of(ca), url)[0]
            return
    raise AssertionError("the new certificate was never shown")


def test_both_ports_speak_tls_and_a_certificate_starts_a_saga(module: Path) -> None:
    """Health and metrics at the admin port, and nothing to be had in the clear."""
    ca = Authority(module)
    with serving(module, *options(ca), "--admin-port", "0") as (url, admin):
        assert url.startswith("https://") and admin.startswith("https://")
        body = json.dumps(SAGA).encode()
        start = Request(f"{url}/sagas", body, {"Content-Type": "application/json"})
        assert 200 == read(context_of(ca, "order"), start)[0]
        assert 200 == read(context_of(ca), f"{admin}/readyz")[0]
        with pytest.raises(OSError, match="closed connection"):
            read(context_of(ca), url.replace("https:", "http:") + "/readyz")
        _, metrics = read(context_of(ca), f"{admin}/metrics")
    assert 'stage_certificate_expiry_seconds{place="tls_cert"} 2.5' in metrics
    assert 'stage_files_refused{place="tls_client_ca"} 0.0' in metrics


def test_a_renewed_certificate_is_shown_within_two_seconds(module: Path) -> None:
    """The same process, without a signal."""
    assert LOOK_SECONDS < 2.0
    ca = Authority(module)
    with serving(module, *options(ca)) as (url,):
        assert 200 == read(context_of(ca), f"{url}/readyz")[0]
        (module / "next").mkdir()
        following = Authority(module / "next", "next")
        cert, key = following.sign("payment", "127.0.0.1")
        key.rename(module / "payment.key")
        cert.rename(module / "payment.pem")
        until_shown(following, f"{url}/readyz")
        with pytest.raises(URLError):
            read(context_of(ca), f"{url}/readyz")


def test_wrong_files_end_the_start_with_one_line(module: Path) -> None:
    """The key of another certificate; a client CA without a certificate of our own."""
    ca = Authority(module)
    cert, _ = ca.sign("payment", "127.0.0.1")
    _, other = ca.sign("other", "127.0.0.1")
    serve = ("serve", "pay:payment", "--port", "0")
    given = ("--tls-cert", str(cert), "--tls-key", str(other))
    failed(stage(*serve, *given, cwd=module), "tls_cert", "belongs to another certificate")
    alone = stage(*serve, "--tls-client-ca", str(ca.file), cwd=module)
    failed(alone, "tls_client_ca is set without tls_cert")


def test_an_operator_asks_from_elsewhere_by_certificate(module: Path) -> None:
    """Without the authority there is no connection, and without a certificate no name."""
    ca = Authority(module)
    cert, key = ca.sign("kim", "kim.example")
    kim = ("--operator", "kim.accept_san=kim.example", "--operator", "kim.role=viewer")
    with serving(module, *options(ca), *kim) as (url,):
        asked = ("sagas", "--url", url)
        trusts = ("--ca-file", str(ca.file))
        shows = ("--client-cert", str(cert), "--client-key", str(key))
        assert 0 == stage(*asked, *trusts, *shows, cwd=module).status
        nobody = stage(*asked, *trusts, cwd=module)
        assert 0 != nobody.status and "(401)" in nobody.err
        failed(stage(*asked, *shows, cwd=module), "cannot be reached", "self-signed certificate")
        alone = stage(*asked, *trusts, "--client-key", str(key), cwd=module)
        failed(alone, "there is no --client-cert")
