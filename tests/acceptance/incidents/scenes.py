"""The incidents: each begins with a stage that is well, and says how it is struck.

Most stages run in this process, with real ports, files and neighbours; those that are killed, stuck
or crash are processes of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    closing,
    suppress,
)
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage import Http, Saga, Stage, Tx
from stage.demo.chain import free_ports
from stage.engine.clock import SteadyClock
from tests.acceptance.kills.processes import Server
from tests.certificates import DAY, Authority
from tests.scenario.chain import HOST, SERVICE, Chain, running_chain
from tests.scenario.test_damaged_database import damage

PAUSE_SECONDS = 0.1
"""Between two sagas of a load."""


@dataclass(slots=True)
class Scene:
    """A stage that is well."""

    url: str
    """Where its metrics are, without the path."""
    strike: Callable[[], Awaitable[object]]
    """Lets the incident begin."""
    scheme: str = field(default="http")

    @property
    def instance(self) -> str:
        """Its label in Prometheus."""
        return self.url.partition("://")[2]


class Incident(NamedTuple):
    """One incident: the alert that must fire, and those that may, because they are true as well."""

    name: str
    alert: str
    begin: Callable[[Path], AbstractAsyncContextManager[Scene]]
    also: frozenset[str] = frozenset()
    began: bool = False
    """It began long ago, so that its alert may fire already."""


class Api:
    """The external API of one stage: `mode` is the code of every answer, or None for no answer."""

    def __init__(self) -> None:
        self.mode: int | None = 200
        self.refunds: int | None = None
        """The code of refunds, where it differs."""
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Any request."""
        mode = self.mode
        if request.path == "/refunds" and self.refunds is not None:
            mode = self.refunds
        if mode is None:
            await asyncio.sleep(60)
            mode = 503
        if request.method == "GET":
            unknown = {"code": "unknown_key"}
            return web.json_response(unknown, status=404 if mode == 200 else mode)
        return web.json_response({"id": "c-1"}, status=mode)


@asynccontextmanager
async def running_api() -> AsyncIterator[Api]:
    """An API that answers."""
    api, app = Api(), web.Application()
    app.router.add_route("*", "/{tail:.*}", api.answer)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    api.url = f"http://{HOST}:{server.port}"
    try:
        yield api
    finally:
        await server.close()


class Running(NamedTuple):
    """A chain with an API of ours in place of psp, and a load on it."""

    chain: Chain
    api: Api


@asynccontextmanager
async def chain_of(
    folder: Path, *, load: bool = True, deadline: float | None = None, **options: Any
) -> AsyncIterator[Running]:
    """Start it; with `load` a saga comes every tenth of a second, due within `deadline` s."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(running_api())

        def connect(name: str, url: str) -> str:
            return api.url if name == "psp" else url

        chain = await stack.enter_async_context(running_chain(folder, connect=connect, **options))
        if load:
            task = asyncio.create_task(keep_sending(chain, deadline))
            stack.callback(task.cancel)
        yield Running(chain, api)


async def keep_sending(chain: Chain, deadline: float | None, at_once: int = 1) -> None:
    """Send sagas until it is cancelled; nobody waits for their answers."""
    async with asyncio.TaskGroup() as group:
        for number in itertools.count():
            for each in range(at_once):
                due = None if deadline is None else time.time() + deadline
                saga_id = f"load-{number}-{each}"
                group.create_task(sent(chain, saga_id, due))
            await asyncio.sleep(PAUSE_SECONDS)


async def sent(chain: Chain, saga_id: str, due: float | None = None) -> None:
    """Send one; the connection may break."""
    with suppress(aiohttp.ClientError, TimeoutError):
        await chain.send(saga_id, deadline=due)


# --- peers ---------------------------------------------------------------------------------------


@asynccontextmanager
async def api_fails(folder: Path) -> AsyncIterator[Scene]:
    """The API answers 503: what waits for it turns back at its deadline."""
    async with chain_of(folder, deadline=2.0) as (chain, api):

        async def strike() -> None:
            api.mode = 503

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def api_says_nothing(folder: Path) -> AsyncIterator[Scene]:
    """The API takes requests and answers none; nothing ends any more."""
    async with chain_of(folder) as (chain, api):

        async def strike() -> None:
            api.mode = None

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def downstream_hangs_up(folder: Path) -> AsyncIterator[Scene]:
    """Every hand-over is answered by a gateway's page."""
    async with chain_of(folder) as (chain, _):

        async def strike() -> None:
            await chain.script(chain.shipping, script="gateway", code=503)

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def key_is_rotated(folder: Path) -> AsyncIterator[Scene]:
    """The API answers 401: the stage shows the key of before."""
    async with chain_of(folder) as (chain, api):

        async def strike() -> None:
            api.mode = 401

        yield Scene(chain.stage, strike)


# --- sagas ---------------------------------------------------------------------------------------


@asynccontextmanager
async def refund_is_declined(folder: Path) -> AsyncIterator[Scene]:
    """A saga turns back, and its charge cannot be refunded."""
    async with chain_of(folder, load=False) as (chain, api):

        async def strike() -> None:
            api.refunds = 402
            await chain.script(chain.shipping, script="refuse")
            await chain.send("s-1")

        yield Scene(chain.stage, strike)


careful: Stage[Any, Any] = Stage("payment", accepts=dict, migrations=None)


@careful.call(to="psp", timeout=0.3, idempotent=False)
async def pay(http: Http, saga: Saga[dict[str, Any]]) -> dict[str, Any]:
    """A call that nobody may repeat, and that cannot be asked for."""
    answer: dict[str, Any] = (await http.post("/charges", json={})).json()
    return answer


@pay.compensation
async def pay_back(http: Http, saga: Saga[dict[str, Any]], made: dict[str, Any] | None) -> None:
    """Undo it."""
    await http.post("/refunds", json={})


@asynccontextmanager
async def answer_is_lost(folder: Path) -> AsyncIterator[Scene]:
    """A call that must not be repeated has no answer: a person has to find out."""
    async with chain_of(folder, load=False, stage=careful) as (chain, api):

        async def strike() -> None:
            api.mode = None
            await asyncio.gather(sent(chain, "s-1"), asyncio.sleep(1.0))

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def undo_takes_long(folder: Path) -> AsyncIterator[Scene]:
    """An undo that began more than a quarter of an hour ago, and still gets no answer."""
    async with chain_of(folder, load=False) as (chain, api):
        assert chain.app is not None
        clock = cast(SteadyClock, chain.app[SERVICE].clock)
        clock._wall = lambda: time.time() - 895.0
        clock.begin()
        api.refunds = 503
        await chain.send("s-1")
        await chain.compensate("s-1", Prefer="wait=1")
    async with chain_of(folder, load=False) as (chain, api):
        api.refunds = 503
        yield Scene(chain.stage, lambda: asyncio.sleep(0))


def asking(timeout: float) -> Stage[Any, Any]:
    """A stage that asks a person about every saga."""
    stage: Stage[Any, Any] = Stage("payment", accepts=dict, migrations=None)

    @stage.approval("risk", timeout=timeout)
    def risk(saga: Saga[dict[str, Any]]) -> str:
        return "a large payment"

    return stage


@asynccontextmanager
async def nobody_approves(folder: Path) -> AsyncIterator[Scene]:
    """A person was asked nearly an hour ago, and has three days."""
    async with chain_of(folder, load=False, stage=asking(3 * 86_400.0)) as (chain, _):
        assert chain.app is not None
        clock = cast(SteadyClock, chain.app[SERVICE].clock)
        clock._wall = lambda: time.time() - 3_590.0
        clock.begin()
        await chain.send("s-1")
    async with chain_of(folder, load=False, stage=asking(3 * 86_400.0)) as (chain, _):
        yield Scene(chain.stage, lambda: asyncio.sleep(0))


@asynccontextmanager
async def approval_expires(folder: Path) -> AsyncIterator[Scene]:
    """A person was asked ten minutes ago, and has three more."""
    async with chain_of(folder, load=False, stage=asking(780.0)) as (chain, _):
        assert chain.app is not None
        clock = cast(SteadyClock, chain.app[SERVICE].clock)
        clock._wall = lambda: time.time() - 590.0
        clock.begin()
        await chain.send("s-1")
    async with chain_of(folder, load=False, stage=asking(780.0)) as (chain, _):
        yield Scene(chain.stage, lambda: asyncio.sleep(0))


@asynccontextmanager
async def saga_was_lost(folder: Path) -> AsyncIterator[Scene]:
    """A neighbour asks for a saga that was there before this database."""
    async with chain_of(folder, load=False) as (chain, _):
        body = {"requested_by": "order", "reason": "x", "first_sent_at": "2020-01-01T00:00:00Z"}
        url = f"{chain.stage}/sagas/s-1/compensate"
        yield Scene(chain.stage, lambda: chain.request("POST", url, msgspec.json.encode(body)))


# --- code ----------------------------------------------------------------------------------------


@asynccontextmanager
async def code_raises(folder: Path) -> AsyncIterator[Scene]:
    """A function of the author has a bug."""
    stage: Stage[Any, Any] = Stage("payment", accepts=dict, migrations=None)

    @stage.transaction(compensation=None, reason="writes nothing")
    async def enter(tx: Tx, saga: Saga[dict[str, Any]]) -> None:
        raise LookupError("a bug")

    async with chain_of(folder, load=False, stage=stage) as (chain, _):
        yield Scene(chain.stage, lambda: chain.send("s-1"))


@asynccontextmanager
async def code_does_not_end(folder: Path) -> AsyncIterator[Scene]:
    """A function of the author waits for ever, in the thread of the writer."""
    stage: Stage[Any, Any] = Stage("payment", accepts=dict, migrations=None)
    free = threading.Event()

    @stage.transaction(compensation=None, reason="writes nothing")
    async def enter(tx: Tx, saga: Saga[dict[str, Any]]) -> None:
        free.wait(120)

    async with chain_of(folder, load=False, stage=stage) as (chain, _):
        tasks = []

        async def strike() -> None:
            tasks.append(asyncio.create_task(sent(chain, "s-1")))

        try:
            yield Scene(chain.stage, strike)
        finally:
            free.set()
            await asyncio.gather(*tasks)


# --- machine -------------------------------------------------------------------------------------


@asynccontextmanager
async def file_is_locked(folder: Path) -> AsyncIterator[Scene]:
    """Another program holds the file: nothing can be written."""
    async with chain_of(folder) as (chain, _):
        path = folder / "payment.db"
        holder = sqlite3.connect(path, isolation_level=None)
        with closing(holder):

            async def strike() -> None:
                holder.execute("BEGIN IMMEDIATE")

            yield Scene(chain.stage, strike)


@asynccontextmanager
async def pages_are_damaged(folder: Path) -> AsyncIterator[Scene]:
    """The disk gives back other pages than were written."""
    async with chain_of(folder) as (chain, _):

        async def strike() -> None:
            damage(folder / "payment.db")

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def clock_jumps(folder: Path) -> AsyncIterator[Scene]:
    """The machine's clock is a week ahead."""
    async with chain_of(folder) as (chain, _):
        assert chain.app is not None
        clock = cast(SteadyClock, chain.app[SERVICE].clock)

        async def strike() -> None:
            clock._wall = lambda: time.time() + 7 * 86_400

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def too_many_come(folder: Path) -> AsyncIterator[Scene]:
    """More come at once than there are places, while the API takes its time."""
    async with chain_of(folder, requests_max=10) as (chain, api):
        tasks = []

        async def strike() -> None:
            api.mode = None
            tasks.append(asyncio.create_task(keep_sending(chain, None, at_once=5)))

        try:
            yield Scene(chain.stage, strike)
        finally:
            for task in tasks:
                task.cancel()


# --- people --------------------------------------------------------------------------------------


@asynccontextmanager
async def strangers_ask(folder: Path) -> AsyncIterator[Scene]:
    """Somebody asks to compensate sagas of others."""
    async with chain_of(folder) as (chain, _):
        await chain.send("s-1")

        async def strike() -> None:
            for _ in range(40):
                await chain.compensate("s-1", by="mallory")
                await asyncio.sleep(0.2)

        yield Scene(chain.stage, strike)


@asynccontextmanager
async def intake_is_paused(folder: Path) -> AsyncIterator[Scene]:
    """An operator has paused new sagas, and callers go on asking."""
    async with chain_of(folder) as (chain, _):
        asked = {"target": "intake", "seconds": 600, "reason": "drill", "actor": "kim"}
        url = f"{chain.stage}/pauses"
        yield Scene(chain.stage, lambda: chain.request("POST", url, msgspec.json.encode(asked)))


# --- processes -----------------------------------------------------------------------------------


@asynccontextmanager
async def a_process(folder: Path, *more: str) -> AsyncIterator[tuple[Server, str]]:
    """A stage in a process of its own, and its port."""
    port, world, shipping = free_ports(3)
    arguments = ["payment", "--port", str(port), "--auth", "none"]
    arguments += ["--database", f"sqlite:///{folder / 'payment.db'}"]
    arguments += ["--external", f"world=http://{HOST}:{world}"]
    arguments += ["--downstream", f"shipping=http://{HOST}:{shipping}"]
    arguments += ["--upstream", f"order=http://{HOST}:9", *more]
    server = Server("payment", "tests.acceptance.kills.stages", arguments, folder / "log")
    try:
        await server.prepare()
        await server.start()
        yield server, f"{HOST}:{port}"
    finally:
        await server.close()


@asynccontextmanager
async def process_is_killed(folder: Path) -> AsyncIterator[Scene]:
    """The process is gone, and nobody starts it again."""
    async with a_process(folder) as (server, address):
        yield Scene(f"http://{address}", server.kill)


@asynccontextmanager
async def process_crashes(folder: Path) -> AsyncIterator[Scene]:
    """The process dies again and again; its supervisor starts it each time."""
    async with a_process(folder) as (server, address):

        async def strike() -> None:
            for _ in range(3):
                await server.kill()
                await server.start()
                await asyncio.sleep(6.0)  # long enough for a scrape to see this one

        yield Scene(f"http://{address}", strike)


@asynccontextmanager
async def certificate_ends(folder: Path) -> AsyncIterator[Scene]:
    """A certificate is renewed by one that ends within three days."""
    authority = Authority(folder)
    cert, key = authority.sign("payment", HOST)
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    async with a_process(folder, *options) as (_, address):

        async def strike() -> None:
            authority.sign("payment", HOST, end=3 * DAY)

        yield Scene(f"https://{address}", strike, "https")


PEERS = frozenset({"StagePeerLeftAlone", "StageSagasRefused", "StageStandsStill"})
"""They are about one thing, from the side of the peer and from that of the sagas."""
NOT_READY = frozenset({"StageNotReady"})
FAILED = frozenset({"StageSagaParked", "StageSagasRefused"})

INCIDENTS = (
    Incident("the process is killed", "StageDown", process_is_killed),
    Incident("an API fails", "StageSagasRefused", api_fails, PEERS),
    Incident("a refund is declined", "StageFailedToCompensate", refund_is_declined, FAILED),
    Incident("the file is locked", "StageNotReady", file_is_locked,
             PEERS | {"StageDatabaseError", "StageSaturated"}),
    Incident("an API says nothing", "StageStandsStill", api_says_nothing,
             PEERS | {"StageSaturated"}),
    Incident("a downstream hangs up", "StagePeerLeftAlone", downstream_hangs_up, PEERS),
    Incident("a key is rotated", "StageDenied", key_is_rotated, PEERS),
    Incident("an answer is lost", "StageSagaParked", answer_is_lost),
    Incident("an undo takes long", "StageCompensationDelayed", undo_takes_long, began=True),
    Incident("a saga was lost", "StageLostSagas", saga_was_lost),
    Incident("code raises", "StageDefect", code_raises, FAILED),
    Incident("code does not end", "StageCodeStuck", code_does_not_end, NOT_READY),
    Incident("pages are damaged", "StageDatabaseError", pages_are_damaged,
             PEERS | {"StageNotReady", "StageDefect", "StageSaturated"}),
    Incident("the clock jumps", "StageClockJumped", clock_jumps),
    Incident("too many come", "StageSaturated", too_many_come, PEERS),
    Incident("strangers ask", "StageCallersRefused", strangers_ask),
    Incident("the intake is paused", "StagePaused", intake_is_paused),
    Incident("the process crashes", "StageCrashes", process_crashes),
    Incident("a certificate ends", "StageCertificateExpires", certificate_ends),
    Incident("nobody approves", "StageApprovalWaits", nobody_approves, began=True),
    Incident("an approval expires", "StageApprovalExpires", approval_expires,
             frozenset({"StageApprovalWaits"}), began=True),
)  # fmt: skip
