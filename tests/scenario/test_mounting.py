"""The application under other people's servers, and at other people's paths."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from stage.bootstrap import build_app
from stage.config import Config
from stage.demo import psp
from stage.demo.payment import payment
from stage.wire.envelope import Envelope, encode_envelope
from tests.scenario.chain import ORDER

HEADERS = {"Content-Type": "application/json"}


async def test_mounted_below_a_path_it_answers_with_its_own_addresses(tmp_path: Path) -> None:
    """add_subapp takes it, and Location holds the path it is mounted at."""
    async with TestServer(psp.make_app()) as api:
        config = Config(
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
            assert "/payment/sagas/s-1" == location
            async with session.get(server.make_url(location)) as response:
                assert 200 == response.status


async def test_gunicorn_serves_it(tmp_path: Path) -> None:
    """gunicorn's aiohttp worker takes the factory, configured from the environment."""
    port = unused_port()
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
        await asyncio.wait_for(process.wait(), 15)


async def eventually(session: aiohttp.ClientSession, url: str) -> bool:
    for _ in range(200):
        try:
            async with session.get(url) as response:
                if response.status == 200:
                    return True
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.05)  # another process: there is no event to await
    return False
