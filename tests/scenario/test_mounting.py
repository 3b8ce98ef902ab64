"""The application under other people's servers, and at other people's paths."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from opentelemetry.sdk.trace import TracerProvider
from yarl import URL

from stage import Http, Saga, Stage
from stage.bootstrap import build_app
from stage.config import Config
from stage.demo import psp
from stage.demo.chain import free_ports
from stage.demo.payment import payment
from stage.wire.envelope import Envelope, encode_envelope
from tests.scenario.chain import ORDER
from tests.waits import HANG_SECONDS, START_SECONDS_MAX, until

HEADERS = {"Content-Type": "application/json"}


async def test_mounted_below_a_path_it_answers_with_its_own_addresses(tmp_path: Path) -> None:
    """add_subapp takes it, and Location leads below the path it is mounted at."""
    async with TestServer(psp.make_app()) as api:
        config = Config(
            auth="none",
            database=f"sqlite:///{tmp_path / 'p.db'}",
            externals={"psp": str(api.make_url("")).rstrip("/")},
        )
        outer = web.Application()
        outer.add_subapp("/payment/", build_app(payment, config))
        async with TestServer(outer) as server, aiohttp.ClientSession() as session:
            body = encode_envelope(Envelope(saga_id="s-1", data=ORDER))
            url = server.make_url("/payment/sagas")
            headers = {**HEADERS, "Prefer": "respond-async"}
            async with session.post(url, data=body, headers=headers) as response:
                assert 202 == response.status
                location = response.headers["Location"]
            assert "/payment/sagas/s-1" == url.join(URL(location)).path
            async with session.get(url.join(URL(location))) as response:
                assert 200 == response.status


async def test_routes_that_the_author_adds_have_ids_and_problems_too(tmp_path: Path) -> None:
    """Their responses stay as they are; their HTTP errors and defects become problems."""

    async def fine(request: web.Request) -> web.StreamResponse:
        return web.Response(text="mine", headers={"X-Mine": "1"})

    async def refused(request: web.Request) -> web.StreamResponse:
        raise web.HTTPForbidden(text="not you")

    async def broken(request: web.Request) -> web.StreamResponse:
        raise RuntimeError("broken")

    provider = TracerProvider()
    config = Config(
        auth="none",
        database=f"sqlite:///{tmp_path / 'p.db'}",
        externals={"psp": "http://127.0.0.1:9"},
    )
    app = build_app(payment, config, tracer_provider=provider)
    for name, endpoint in {"fine": fine, "refused": refused, "broken": broken}.items():
        app.router.add_get(f"/{name}", endpoint)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        async with session.get(server.make_url("/fine")) as response:
            assert (200, "mine", "1") == (
                response.status, await response.text(), response.headers["X-Mine"]
            )  # fmt: skip
            assert 32 == len(response.headers["Trace-Id"])
        for name, status in {"refused": 403, "broken": 500}.items():
            async with session.get(server.make_url(f"/{name}")) as response:
                assert status == response.status
                assert "application/problem+json" == response.content_type


async def test_gunicorn_serves_it(tmp_path: Path) -> None:
    """gunicorn's aiohttp worker takes the factory, configured from the environment."""
    port = free_ports(1)[0]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gunicorn", "stage.demo.payment:app", "--bind", f"127.0.0.1:{port}",
        "--worker-class", "aiohttp.GunicornWebWorker",
        "--log-level", "warning",
        env={
            **os.environ,
            "STAGE_DATABASE": f"sqlite:///{tmp_path / 'p.db'}",
            "STAGE_EXTERNAL": "psp=http://127.0.0.1:9",
        },
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            assert await eventually(session, f"http://127.0.0.1:{port}/readyz")
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), HANG_SECONDS)


async def eventually(session: aiohttp.ClientSession, url: str) -> bool:
    """True once it answers 200: another process tells nobody that it has started."""

    async def answers() -> bool:
        try:
            async with session.get(url) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    await until(answers, START_SECONDS_MAX)
    return True


async def test_two_stages_in_one_process_have_each_its_own_configuration(tmp_path: Path) -> None:
    """As sub-applications of one: own database, own API, own compensation window."""
    apis = [web.Application(), web.Application()]
    charged: list[list[str]] = [[], []]
    for api, keys in zip(apis, charged, strict=True):

        async def charge(request: web.Request, keys: list[str] = keys) -> web.Response:
            keys.append(request.headers["Idempotency-Key"])
            return web.json_response({"id": f"c-{len(keys)}"})

        api.router.add_post("/charges", charge)
    async with AsyncExitStack() as stack:
        homes = [await stack.enter_async_context(TestServer(api)) for api in apis]
        stages = [_charging("payment"), _charging("tax")]
        outer = web.Application()
        for declared, home in zip(stages, homes, strict=True):
            config = Config(
                auth="none",
                database=f"sqlite:///{tmp_path / declared.name}.db",
                externals={"psp": str(home.make_url("")).rstrip("/")},
                compensation_window_seconds=100.0 if declared.name == "tax" else 200.0,
            )
            outer.add_subapp(f"/{declared.name}/", await declared.app(config))
        front = await stack.enter_async_context(TestServer(outer))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for name, saga_id in (("payment", "s-1"), ("tax", "s-1"), ("tax", "s-2")):
            body = encode_envelope(Envelope(saga_id=saga_id, data=ORDER))
            url = front.make_url(f"/{name}/sagas")
            async with session.post(url, data=body, headers=HEADERS) as response:
                assert (200, {name}) == (response.status, set((await response.json())["data"]))
        windows = []
        for name in ("payment", "tax"):
            async with session.get(front.make_url(f"/{name}/.well-known/stage")) as response:
                shown = await response.json()
                windows.append((shown["name"], shown["compensation_window_seconds"]))
    assert [("payment", 200.0), ("tax", 100.0)] == windows
    assert [["s-1"], ["s-1", "s-2"]] == [[key.split(":")[0] for key in keys] for keys in charged]
    assert ["payment.db", "tax.db"] == sorted(
        name for name in os.listdir(tmp_path) if name.endswith(".db")
    )


def _charging(name: str) -> Stage[dict[str, Any], dict[str, Any]]:
    declared: Stage[dict[str, Any], dict[str, Any]] = Stage(name, accepts=dict, adds=dict)

    @declared.call(to="psp", compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[dict[str, Any]]) -> dict[str, Any]:
        answer = await http.post("/charges", json={})
        return dict(answer.json())

    @declared.output
    def charged(saga: Saga[dict[str, Any]]) -> dict[str, Any]:
        return saga.result(charge)

    return declared


async def test_the_environment_configures_what_is_given_no_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And a variable in it that is in no setting is logged once, at start."""
    monkeypatch.setenv("STAGE_DATABASE", f"sqlite:///{tmp_path / 'p.db'}")
    monkeypatch.setenv("STAGE_EXTERNAL", "psp=http://127.0.0.1:9")
    monkeypatch.setenv("STAGE_ENV", "prod")
    monkeypatch.setattr(structlog, "is_configured", lambda: False)  # by a test before
    caplog.set_level("WARNING", "stage")
    async with TestClient(TestServer(await payment.app())) as client:
        assert 200 == (await client.get("/readyz")).status
    assert 1 == caplog.text.count("environment STAGE_ENV: is ignored")
