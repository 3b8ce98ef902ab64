"""A Unix socket that another server listens at is no door beside the database (rule 36)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from stage.bootstrap import build_app
from stage.config import Config
from stage.demo.payment import payment
from stage.inbound.aiohttp import DOORS
from stage.ports.connection import Connection
from stage.wire.envelope import Envelope, TrailEntry, encode_envelope
from tests.scenario.attacks.names import accept_file, shown_by, token_of, write_accepted
from tests.scenario.chain import AT, ORDER

NOBODY = "http://127.0.0.1:9"
"""The port of discard, where nobody listens."""
WHY = msgspec.json.encode({"reason": "ticket 17"})
START = encode_envelope(
    Envelope(saga_id="s-1", data=ORDER, trail=(TrailEntry(stage="order", at=AT),))
)


@asynccontextmanager
async def at_a_socket(
    folder: Path, *, beside: bool = False, **options: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a stage that listens as `web.run_app(path=)` and gunicorn do behind nginx.

    With `beside` it is the socket that the stage has opened itself.
    """
    write_accepted(folder, "order", token_of("order"))
    usual: dict[str, Any] = {
        "database": f"sqlite:///{folder / 'p.db'}",
        "upstreams": {"order": Connection(accept_file=str(accept_file(folder, "order")))},
        "externals": {"psp": NOBODY},
    }
    app = build_app(payment, Config(**{**usual, **options}))
    path = str(folder / "s.sock")
    app[DOORS].beside = path if beside else str(folder / "p.db.sock")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            yield session
    finally:
        await runner.cleanup()


async def asked(
    session: aiohttp.ClientSession, method: str, path: str, body: bytes = b"", **headers: str
) -> int:
    """The code of one answer."""
    names = {"Content-Type": "application/json", "Prefer": "respond-async, wait=0", **headers}
    async with session.request(
        method, f"http://localhost{path}", data=body, headers=names
    ) as response:
        return response.status


async def test_a_caller_at_the_socket_of_another_server_has_no_name(tmp_path: Path) -> None:
    """All that nginx lets through comes in as nginx's user, and is a stranger all the same."""
    async with at_a_socket(tmp_path) as session:
        for method, path, body in (
            ("GET", "/sagas", b""),
            ("POST", "/sagas", START),
            ("POST", "/sagas/s-1/forget", WHY),
            ("POST", "/sagas/s-1/erase", WHY),
            ("POST", "/sagas/s-1/compensate", b""),
        ):
            assert 401 == await asked(session, method, path, body), path
        assert 200 == await asked(session, "GET", "/healthz")


async def test_a_token_counts_there_as_anywhere(tmp_path: Path) -> None:
    """An upstream starts its saga, and is no operator; the host is looked at as usual."""
    async with at_a_socket(tmp_path) as session:
        shown = {"Authorization": shown_by("order")}
        host = "rebound.example"
        assert 403 == await asked(session, "POST", "/sagas", START, Host=host, **shown)
        assert 202 == await asked(session, "POST", "/sagas", START, **shown)
        assert 200 == await asked(session, "GET", "/sagas/s-1", b"", **shown)
        assert 403 == await asked(session, "POST", "/sagas/s-1/forget", WHY, **shown)


async def test_the_socket_that_the_stage_opened_names_its_user(tmp_path: Path) -> None:
    """The same requests are an admin's at the door beside the database, under any host."""
    async with at_a_socket(tmp_path, beside=True) as session:
        assert 200 == await asked(session, "GET", "/sagas", Host="any.example")
        assert 404 == await asked(session, "POST", "/sagas/s-2/forget", WHY)
        assert 403 == await asked(session, "POST", "/sagas", START)  # no upstream's


async def test_without_names_a_socket_is_of_this_machine(tmp_path: Path) -> None:
    """`auth = "none"` believes those who may open the file."""
    async with at_a_socket(tmp_path, auth="none") as session:
        assert 202 == await asked(session, "POST", "/sagas", START)
        signed = msgspec.json.encode({"reason": "ticket 17", "actor": "kim"})
        assert 404 == await asked(session, "POST", "/sagas/s-2/forget", signed)
