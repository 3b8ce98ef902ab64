"""Credentials belong to the operator (rule 30): rotated, refused in a step, and found nowhere."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Http, OutgoingRequest, Saga, Stage
from stage.bootstrap import build_app
from stage.config import Config, describe
from stage.core.errors import ConfigurationError
from stage.demo.payment import Order
from stage.ports.connection import Connection
from stage.testing import SpanCollector
from tests.certificates import Authority
from tests.scenario.attacks.world import World, running_world
from tests.scenario.chain import HOST, running_chain
from tests.tunnels import OPENED, tunnelling

OLD, NEW, SIGNED = "canary-old-7f3a", "canary-new-91bc", "canary-signed-22d0"


def charging() -> Stage[Order, Order]:
    """One charge, and a refund that any answer but 200 keeps from its end."""
    stage: Stage[Order, Order] = Stage("payment", accepts=Order)

    @stage.call(to="psp")
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/do/charge", json={"amount": saga.input.amount})
        return str(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charge_id: str | None) -> None:
        answer = await http.post("/undo/charge", json={"amount": saga.input.amount})
        if answer.status != 200:
            raise RuntimeError(f"answered {answer.status}")

    return stage


def key_file(folder: Path, token: str) -> Path:
    """Written whole and then renamed, as a rotation does it."""
    path = folder / "psp.key"
    made = path.with_suffix(".next")
    made.write_text(token)
    made.chmod(0o600)
    made.rename(path)
    return path


def stored(folder: Path) -> bytes:
    """Every byte of the database and of its log."""
    return b"".join(path.read_bytes() for path in folder.glob("payment.db*"))


class Gate:
    """The API's door: who does not show the token of today gets 401 and no effect."""

    def __init__(self, world: World, token: str) -> None:
        self.token = token
        self.shown: list[str] = []
        self._world = world

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.shown.append(request.headers.get("Authorization", ""))
        if self.shown[-1] != f"Bearer {self.token}":
            await request.read()
            return web.json_response({"error": "who are you?"}, status=401)
        return await self._world.handle(request)


@asynccontextmanager
async def guarded_world(token: str) -> AsyncIterator[tuple[Gate, World, str]]:
    """A world behind a gate, and its address."""
    world = World()
    gate = Gate(world, token)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", gate.handle)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    try:
        yield gate, world, f"http://{HOST}:{server.port}"
    finally:
        await server.close()


async def test_a_rotated_token_is_used_by_the_attempts_after_it_and_lies_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The undo began under the old token; its later attempts show the new one, same key and body.

    Neither is in a byte of the database, a log line, a span, an answer or `stage config`.
    """
    caplog.set_level(logging.DEBUG)
    spans = SpanCollector()
    async with guarded_world(OLD) as (gate, world, url):
        psp = Connection(url=url, bearer_file=str(key_file(tmp_path, OLD)))
        options: dict[str, Any] = {"externals": {"psp": psp}, "tracer_provider": spans.provider}
        async with running_chain(tmp_path, stage=charging(), **options) as chain:
            assert 200 == (await chain.send("s-1"))[0]
            assert 1 == world.count("charge")
            gate.token = NEW  # the API rotates first: the old one is worth nothing any more
            said = [(await chain.compensate("s-1", Prefer="respond-async"))[2]]
            while gate.shown.count(f"Bearer {OLD}") < 2:  # noqa: ASYNC110 - the API tells nobody
                await asyncio.sleep(0.01)
            key_file(tmp_path, NEW)
            await chain.until("s-1", lambda saga: saga["state"] == "compensated")
            assert 0 == world.count("charge")
            assert f"Bearer {NEW}" == gate.shown[-1]
            for view in ("", "?view=journal", "?view=plan"):
                said += (await chain.request("GET", f"{chain.stage}/sagas/s-1{view}"))[2:]
    lines = describe(Config(externals={"psp": psp}))
    everything = b"".join(
        [
            stored(tmp_path),
            *said,
            caplog.text.encode(),
            repr([vars(record) for record in caplog.records]).encode(),
            repr([span.to_json() for span in spans.exporter.get_finished_spans()]).encode(),
            repr(lines).encode(),
        ]
    )
    assert b"undo/charge" in everything  # the journal is there, and readable
    for canary in (OLD, NEW):
        assert canary.encode() not in everything


async def test_a_key_that_the_api_does_not_take_costs_time_and_no_saga(tmp_path: Path) -> None:
    """401 on the way forward: the function never sees it, and the saga waits for the right key."""
    async with guarded_world(NEW) as (gate, world, url):
        psp = Connection(url=url, bearer_file=str(key_file(tmp_path, OLD)))
        async with running_chain(tmp_path, stage=charging(), externals={"psp": psp}) as chain:
            sending = asyncio.create_task(chain.send("s-1"))
            await chain.until("s-1", lambda saga: saga["steps"][0]["attempts"] >= 2)
            key_file(tmp_path, NEW)
            assert 200 == (await sending)[0]
            assert 1 == world.count("charge")
            events = await chain.events("s-1")
            _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
    assert "step_in_doubt" not in events and events.count("step_transient") >= 2
    refused = gate.shown.count(f"Bearer {OLD}")
    assert f'stage_peer_answers_total{{answer="401",peer="psp"}} {refused}.0' in metrics.decode()


async def test_a_proxy_costs_time_and_no_saga_while_it_gives_no_tunnel(tmp_path: Path) -> None:
    """Its password is wrong at first: nothing leaves, and nothing is in doubt. It lies nowhere."""
    world, authority = World(), Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.sign("psp", HOST))
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", world.handle)
    server = TestServer(app, host=HOST, scheme="https")
    await server.start_server(ssl=context, shutdown_timeout=0.1)
    async with tunnelling() as proxy:
        proxy.answer = b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n"
        psp = Connection(
            url=f"https://{HOST}:{server.port}",
            ca_file=str(authority.file),
            proxy=proxy.url,
            proxy_basic_file=str(key_file(tmp_path, f"kim:{OLD}")),
        )
        async with running_chain(tmp_path, stage=charging(), externals={"psp": psp}) as chain:
            sending = asyncio.create_task(chain.send("s-1"))
            saga = await chain.until("s-1", lambda saga: saga["steps"][0]["attempts"] >= 2)
            assert "the proxy answers 407" in saga["steps"][0]["last_error"]
            assert not world.seen
            proxy.answer = OPENED
            assert 200 == (await sending)[0]
            assert 1 == world.count("charge")
            await chain.compensate("s-1")
            assert 0 == world.count("charge")
            assert "step_in_doubt" not in await chain.events("s-1")
        assert OLD.encode() not in stored(tmp_path)
    await server.close()


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Proxy-Authorization", "X-Api-Key"])
async def test_a_step_that_sets_a_header_of_the_operator_is_refused(
    tmp_path: Path, name: str
) -> None:
    """A defect, before anything leaves or is journaled, with the fix; never a doubt."""
    stage: Stage[Order, Order] = Stage("payment", accepts=Order)

    @stage.call(to="psp", attempts_max=1, compensation=None, reason="no test undoes it")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/do/charge", headers={name: OLD})

    keys = tmp_path / "headers"
    keys.write_text("X-Api-Key: k\n")
    keys.chmod(0o600)
    async with running_world(tmp_path, stage, attempts_max=1) as (_, world):
        psp = Connection(url=world.url, headers_file=str(keys))
        folder = tmp_path / "second"
        folder.mkdir()
        async with running_world(folder, stage, externals={"psp": psp}) as (chain, _):
            status, _, body = await chain.send("s-1", deadline=time.time() + 1.0)
            assert (409, "not_executed") == (status, msgspec.json.decode(body)["outcome"])
            failed = (await chain.view("s-1"))["steps"][0]
            assert "is the operator's: leave it out of the step" in failed["last_error"]
            assert "step_transient" in await chain.events("s-1")
        assert not world.seen
        assert OLD.encode() not in stored(folder)


async def test_a_credentials_function_is_asked_at_each_request_and_journaled_nowhere(
    tmp_path: Path,
) -> None:
    """It returns another value each time; the body and the key of a repeat stay."""
    stage = charging()
    asked: list[str] = []

    @stage.credentials("psp")
    async def sign(request: OutgoingRequest) -> Mapping[str, str]:
        await asyncio.sleep(0)  # it may await what it likes, such as a token endpoint
        asked.append(f"{SIGNED}-{len(asked)}")
        return {"Authorization": asked[-1]}

    seen: list[tuple[str, str]] = []

    async def first_fails(request: web.Request) -> web.StreamResponse:
        shown = request.headers["Authorization"]
        seen.append((shown, request.headers["Idempotency-Key"]))
        return web.json_response({"id": "c"}, status=500 if len(seen) == 1 else 200)

    async with running_world(tmp_path, stage) as (chain, world):
        world.behaves["do/charge"] = first_fails
        assert 200 == (await chain.send("s-1"))[0]
        key = "s-1:payment:charge:do"
        assert [(f"{SIGNED}-0", key), (f"{SIGNED}-1", key)] == seen
    assert b"do/charge" in stored(tmp_path) and SIGNED.encode() not in stored(tmp_path)


async def test_a_stage_does_not_start_without_the_credentials_it_is_to_show(
    tmp_path: Path,
) -> None:
    """Found at start, and not by the first customer."""
    psp = Connection(url="http://127.0.0.1:9", bearer_file=str(tmp_path / "none"))
    config = Config(database="sqlite:///:memory:", externals={"psp": psp})
    runner = web.AppRunner(build_app(charging(), config))
    with pytest.raises(ConfigurationError, match=r"externals\.psp\.bearer_file .* cannot be read"):
        await runner.setup()
    await runner.cleanup()
