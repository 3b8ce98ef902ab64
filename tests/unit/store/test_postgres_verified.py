"""A server has to prove who it is, where the operator asks for that in the URL."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stage.bootstrap.database_log import log_unverified
from stage.core.errors import StoreUnavailable
from stage.store.postgres.address import DatabaseServer, unverified
from stage.store.postgres.link import connect
from stage.telemetry import logs
from tests.certificates import Authority

SSL_REQUEST_BYTES = 8
CA = "sslrootcert=%2Fetc%2Fca.pem"


@pytest.mark.parametrize(
    "url, environ, host",
    [
        ("postgresql://payment@db.internal/payment", {}, "db.internal"),
        ("postgresql://db.internal:5432/payment?sslmode=require", {}, "db.internal"),
        ("postgresql://db.internal/payment?sslmode=prefer&" + CA, {}, "db.internal"),
        ("postgresql://127.0.0.1,db-2:5433/payment", {}, "db-2"),
        ("postgresql://[2001:db8::5]:5432/payment", {}, "2001:db8::5"),
        ("postgresql:///payment?host=db.internal", {}, "db.internal"),
        ("postgresql:///payment", {"PGHOST": "db.internal"}, "db.internal"),
        ("postgresql://db.internal/payment?sslmode=verify-full&" + CA, {}, ""),
        ("postgresql://db.internal/payment?sslmode=verify-ca", {}, ""),
        ("postgresql://db.internal/payment?sslmode=require&" + CA, {}, ""),
        ("postgresql://db.internal/payment", {"PGSSLMODE": "verify-full"}, ""),
        ("postgresql://db.internal/payment?service=payment", {}, ""),
        ("postgresql://payment@127.0.0.1:5432/payment", {}, ""),
        ("postgresql://localhost,[::1]:5433/payment", {}, ""),
        ("postgresql://%2Frun%2Fpostgresql/payment", {}, ""),
        ("postgresql:///payment", {}, ""),
    ],
)
def test_a_server_that_need_not_prove_who_it_is(
    monkeypatch: pytest.MonkeyPatch, url: str, environ: dict[str, str], host: str
) -> None:
    """It is named in a warning at start, with the fix; loopback and sockets are no network."""
    assert host == unverified(url, environ)
    said: list[dict[str, Any]] = []
    log = SimpleNamespace(warning=lambda event, **members: said.append({"event": event, **members}))
    monkeypatch.setattr(logs, "default_logger", lambda: log)
    for name in ("PGHOST", "PGSSLMODE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    log_unverified(url)
    assert [("database_not_verified", host)][: bool(host)] == [
        (each["event"], each["path"]) for each in said
    ]
    assert all("sslmode=verify-full" in each["reason"] for each in said)


@pytest.mark.blocking
@pytest.mark.parametrize(
    "mode, authority, host, believed",
    [
        ("verify-full", "ours", "127.0.0.1", True),
        ("verify-ca", "ours", "localhost", True),
        ("verify-full", "other", "127.0.0.1", False),
        ("verify-full", "ours", "localhost", False),
        ("verify-full", "none", "127.0.0.1", False),
    ],
)
async def test_the_url_says_how_a_server_proves_who_it_is(
    tmp_path: Path, mode: str, authority: str, host: str, believed: bool
) -> None:
    """`sslmode` and `sslrootcert` reach the driver: another authority or name gets not even a user.

    The server here speaks PostgreSQL as far as TLS; that of the tests is built without.
    """
    Authority(tmp_path, "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*Authority(tmp_path, "ours").sign("postgres", "127.0.0.1"))
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(SSL_REQUEST_BYTES)
            writer.write(b"S")
            await writer.start_tls(context)
            heard.append(await reader.read(1024))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        query = f"sslmode={mode}&sslrootcert={tmp_path / authority}.pem"
        with pytest.raises(StoreUnavailable):  # it ends the connection in any case
            await connect(DatabaseServer(url=f"postgresql://kim@{host}:{port}/payment?{query}"))
    assert believed == any(b"kim" in each for each in heard)
