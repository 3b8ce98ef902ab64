"""The ASGI application under uvicorn, and mounted in FastAPI."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import uvicorn
from aiohttp.test_utils import TestServer
from fastapi import FastAPI

from stage.bootstrap import build_asgi
from stage.config import Config
from stage.demo import psp
from stage.demo.chain import free_ports
from stage.demo.payment import payment
from stage.inbound.asgi import AsgiApplication, _local_address
from stage.inbound.request import UNKNOWN_ADDRESS
from stage.wire.envelope import Envelope, encode_envelope
from tests.scenario.chain import ORDER
from tests.scenario.test_mounting import HEADERS, eventually
from tests.waits import HANG_SECONDS

HOST = "127.0.0.1"
BODY = encode_envelope(Envelope(saga_id="s-1", data=ORDER))


@asynccontextmanager
async def under_uvicorn(application: Any, **options: Any) -> AsyncIterator[str]:
    """The address of the application, served in this process by the real uvicorn."""
    port = free_ports(1)[0]
    settings = uvicorn.Config(
        application, host=HOST, port=port, log_config=None, ws="none", **options
    )
    server = uvicorn.Server(settings)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]  # not the tests'
    serving = asyncio.get_running_loop().create_task(server._serve())
    try:
        while not server.started:
            assert not serving.done(), "uvicorn did not start"
            await asyncio.sleep(0.01)
        yield f"http://{HOST}:{port}"
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def api() -> AsyncIterator[str]:
    async with TestServer(psp.make_app()) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def application(tmp_path: Path, api: str) -> AsgiApplication:
    config = Config(auth="none", database=f"sqlite:///{tmp_path / 'p.db'}", externals={"psp": api})
    return build_asgi(payment, lambda: config)


async def send(
    url: str, body: bytes | io.BytesIO = BODY, **headers: str
) -> tuple[int, Mapping[str, str], Any]:
    names = {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/sagas", data=body, headers=names) as response,
    ):
        read = await response.read()
        return response.status, response.headers, msgspec.json.decode(read)


async def test_under_uvicorn_it_executes_and_replays(application: AsgiApplication) -> None:
    """The same codes, headers and bodies as under aiohttp."""
    async with under_uvicorn(application) as url:
        status, headers, first = await send(url)
        assert (200, "executed") == (status, first["outcome"])
        assert "s-1" == headers["saga-id"]
        assert "application/json" == headers["content-type"]
        status, headers, second = await send(url)
        assert (200, "true", first) == (status, headers["idempotency-replayed"], second)


@pytest.mark.parametrize(
    "server",
    [
        ("192.0.2.7", 8080),
        ("192.0.2.7", "8080"),  # granian gives the port as text
        ("payment.internal", 80),
        ("payment.internal", None),  # the URL of a request, which names no port
        None,
    ],
)
async def test_without_names_it_believes_nobody_from_elsewhere(
    application: AsgiApplication, server: tuple[str, int | str | None] | None
) -> None:
    """`uvicorn --host 0.0.0.0` with `auth = "none"` would let the whole network settle sagas."""
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY}

    async def send_on(message: dict[str, Any]) -> None:
        answers.append(message)

    names = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/sagas", "headers": names}
    async with application.lifespan():
        await application({**scope, "server": server}, receive, send_on)
    assert 401 == answers[0]["status"]
    assert "auth is none" in msgspec.json.decode(answers[1]["body"])["hint"]


@pytest.mark.parametrize("server", [("/", "r"), ("/run/x", None), ("/run/x", "0")])
def test_the_address_of_a_socket_file_is_empty(server: object) -> None:
    """So say it gunicorn, uvicorn and granian; the first gives two letters of its path."""
    assert "" == _local_address({"server": server})


@pytest.mark.parametrize(
    "server, address",
    [
        (("127.0.0.1", 80), "127.0.0.1"),
        (("192.0.2.7", "8080"), "192.0.2.7"),
        (("payment.internal", None), "payment.internal"),
        (("", None), UNKNOWN_ADDRESS),
        (None, UNKNOWN_ADDRESS),
    ],
)
def test_an_address_that_is_no_path_is_no_socket_file(server: object, address: str) -> None:
    """The form of the port says nothing: servers give it as text, or not at all."""
    assert address == _local_address({"server": server})


def test_a_server_that_says_no_address_is_not_known() -> None:
    """The specification lets it be left out, at any listener."""
    assert UNKNOWN_ADDRESS == _local_address({})


async def test_without_names_a_socket_file_is_of_this_machine(
    application: AsgiApplication, tmp_path: Path
) -> None:
    """`uvicorn --uds`, which says its path in place of an address."""
    path = str(tmp_path / "u.sock")
    async with (
        under_uvicorn(application, uds=path),
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.post("http://localhost/sagas", data=BODY, headers=HEADERS) as response,
    ):
        assert 200 == response.status


async def test_errors_are_problems_there_too(application: AsgiApplication) -> None:
    """No route, no such method, a foreign type, a body that is too large or is cut off."""
    async with under_uvicorn(application) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/nowhere") as response:
            problem = msgspec.json.decode(await response.read())
            assert (404, "not_executed") == (response.status, problem["outcome"])
            assert "application/problem+json" == response.content_type
        async with session.delete(f"{url}/sagas") as response:
            assert (405, "GET,POST") == (response.status, response.headers["allow"])
        status, _, problem = await send(url, Content_Type="text/plain")
        assert (415, "not_executed") == (status, problem["outcome"])
        status, _, problem = await send(url, io.BytesIO(b" " * 1_048_577))
        assert (413, "not_executed") == (status, problem["outcome"])


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_is_asked_for_by_head(application: AsgiApplication, path: str) -> None:
    """Without a body; a load balancer that asks so takes 405 for a service that is down."""
    async with under_uvicorn(application) as url, aiohttp.ClientSession() as session:
        async with session.head(f"{url}{path}") as response:
            assert (200, "no-store") == (response.status, response.headers["cache-control"])
        async with session.head(f"{url}/sagas/s-1") as response:
            assert 405 == response.status


START = b"POST /sagas HTTP/1.1\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
JSON = b"Content-Type: application/json\r\n"
HOST_HEADER = b"Host: 127.0.0.1\r\n"


async def raw(url: str, sent: bytes) -> bytes:
    """The answer to bytes as they are; they ask for the end of the connection."""
    reader, writer = await asyncio.open_connection(HOST, int(url.rsplit(":", 1)[1]))
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), HANG_SECONDS)
    writer.close()
    return answer


@pytest.mark.parametrize(
    "headers",
    [
        JSON + b"Content-Type: text/plain\r\n" + LENGTH,
        b"Content-Type: text/plain\r\n" + JSON + LENGTH,
        JSON + LENGTH + b"Transfer-Encoding: chunked\r\n",
    ],
)
async def test_a_head_with_two_meanings_is_refused_there_too(
    application: AsgiApplication, headers: bytes
) -> None:
    """uvicorn lets it pass; under `stage serve` it is 400 as well. Nothing was begun."""
    async with under_uvicorn(application) as url:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) if b"chunked" in headers else BODY
        close = b"Connection: close\r\n\r\n"
        answer = await raw(url, START + HOST_HEADER + headers + close + body)
        assert answer.startswith(b"HTTP/1.1 400 ") and b'"not_executed"' in answer
        async with aiohttp.ClientSession() as session, session.get(f"{url}/sagas/s-1") as response:
            assert 404 == response.status


async def test_a_target_in_absolute_form_is_that_path(application: AsgiApplication) -> None:
    """Every server has to take it (RFC 9112, 3.2.2), and some leave it to the application."""
    async with under_uvicorn(application) as url:
        line = START.replace(b"/sagas", f"{url}/sagas".encode())
        close = b"Connection: close\r\n\r\n"
        answer = await raw(url, line + HOST_HEADER + JSON + LENGTH + close + BODY)
        assert answer.startswith(b"HTTP/1.1 200 "), answer


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, api: str) -> None:
    """408 after body_seconds_max, and the connection is closed."""
    config = Config(auth="none", database=f"sqlite:///{tmp_path / 'p.db'}", externals={"psp": api})
    application = build_asgi(payment, lambda: config)
    async with under_uvicorn(application) as url:
        assert application._service is not None
        msgspec.structs.force_setattr(application._service, "body_seconds_max", 0.2)
        reader, writer = await asyncio.open_connection(HOST, int(url.rsplit(":", 1)[1]))
        writer.write(
            b"POST /sagas HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        answer = await asyncio.wait_for(reader.read(), HANG_SECONDS)  # to the end of the connection
        writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"not_executed"' in answer


async def test_location_is_right_below_a_root_path(application: AsgiApplication) -> None:
    """A proxy that mounts it below a path says so to uvicorn, and Location leads below it."""
    async with under_uvicorn(application, root_path="/payment") as url:
        status, headers, _ = await send(url, Prefer="respond-async")
        assert (202, "sagas/s-1") == (status, headers["location"])
        assert "respond-async" == headers["preference-applied"]


async def test_mounted_in_fastapi_it_lives_in_the_outer_lifespan(
    application: AsgiApplication,
) -> None:
    """FastAPI(lifespan=application.lifespan) starts it; its addresses hold the mount's path."""
    outer = FastAPI(lifespan=application.lifespan)
    outer.mount("/payment", application)
    async with under_uvicorn(outer) as url, aiohttp.ClientSession() as session:
        status, headers, _ = await send(f"{url}/payment", Prefer="respond-async")
        assert (202, "sagas/s-1") == (status, headers["location"])
        looked = f"{url}/payment/{headers['location']}"
        async with session.get(looked, headers={"Prefer": "wait=5"}) as response:
            assert 200 == response.status
        status, _, done = await send(f"{url}/payment")
        assert (200, "executed") == (status, done["outcome"])


async def test_mounted_in_fastapi_behind_a_proxy_it_finds_its_paths(
    application: AsgiApplication,
) -> None:
    """The proxy takes `/api` away, and `FastAPI(root_path=)` is told of it.

    Newer releases of FastAPI warn of that, and name `uvicorn --root-path`, by which the path holds
    it.
    """
    outer = FastAPI(lifespan=application.lifespan)
    outer.root_path = "/api"
    outer.mount("/payment", application)
    async with under_uvicorn(outer) as url, aiohttp.ClientSession() as session:
        status, headers, _ = await send(f"{url}/payment", Prefer="respond-async")
        assert (202, "sagas/s-1") == (status, headers["location"])
        async with session.get(f"{url}/payment/sagas/s-1", headers={"Prefer": "wait=5"}) as looked:
            assert 200 == looked.status


async def test_mounted_without_the_lifespan_it_says_what_to_do(
    application: AsgiApplication, caplog: pytest.LogCaptureFixture
) -> None:
    """503 with the fix, nothing executed, and an error in the log of the server."""
    outer = FastAPI()
    outer.mount("/payment", application)
    async with under_uvicorn(outer) as url:
        status, _, problem = await send(f"{url}/payment")
    assert (503, "not_executed") == (status, problem["outcome"])
    assert "FastAPI(lifespan=" in problem["detail"]
    assert "FastAPI(lifespan=" in caplog.text


async def test_each_lifespan_begins_anew(application: AsgiApplication) -> None:
    """A second start over the same database replays what the first one executed."""
    async with under_uvicorn(application) as url:
        _, _, first = await send(url)
    async with under_uvicorn(application) as url:
        status, headers, second = await send(url)
    assert (200, "true", first) == (status, headers["idempotency-replayed"], second)


async def test_a_start_that_fails_is_reported_to_the_server(tmp_path: Path) -> None:
    """A wrong setting ends the start with the message that says how to mend it."""
    application = build_asgi(payment, partial(Config, database=f"sqlite:///{tmp_path / 'p.db'}"))
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    with pytest.raises(Exception, match="add --external psp=URL"):
        await application({"type": "lifespan"}, receive, keep)
    assert "lifespan.startup.failed" == sent[0]["type"]
    assert "add --external psp=URL" in sent[0]["message"]


async def test_uvicorn_serves_what_the_author_names(tmp_path: Path) -> None:
    """`uvicorn --factory module:stage.asgi`, from the environment; SIGTERM drains and ends it."""
    port = free_ports(1)[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "uvicorn", "--factory", "stage.demo.payment:payment.asgi",
        "--host", HOST, "--port", str(port), "--log-level", "warning",
        env={
            **os.environ,
            "STAGE_DATABASE": f"sqlite:///{tmp_path / 'p.db'}",
            "STAGE_EXTERNAL": "psp=http://127.0.0.1:9",
        },
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            assert await eventually(session, f"http://{HOST}:{port}/readyz")
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), HANG_SECONDS) in (0, -signal.SIGTERM)
