"""A whole chain in this process, over real sockets: order, payment with its psp, shipping."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from stage import Stage
from stage.bootstrap import build_app
from stage.config import Config
from stage.demo import psp as psp_service
from stage.demo.payment import payment
from stage.inbound.aiohttp import SERVICE
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.shared.tokens import Keys
from stage.neighbours.upstream.app import make_app as make_upstream
from stage.neighbours.upstream.script import Script, ScriptName
from stage.ports.connection import Connection
from stage.wire.envelope import Envelope, TrailEntry, encode_envelope
from tests.waits import LOOK_SECONDS, until

HOST = "127.0.0.1"
SERVICES = ("order", "payment", "shipping", "psp")
AT = "2026-11-23T02:29:58.120Z"
RESENDS_MAX = 60
UNTIL_SECONDS_MAX = 90.0
"""Less than the deadline of a test."""
BEGUN_ELSEWHERE = Script(ScriptName.TOMBSTONE)
"""Sagas are sent to the stage in the name of the neighbour upstream, which has no books of them."""


class Chain:
    """The four services and a client. Every URL is without a trailing slash."""

    def __init__(self, session: aiohttp.ClientSession, urls: Mapping[str, str]) -> None:
        self.session = session
        self.order, self.stage = urls["order"], urls["payment"]
        self.shipping, self.psp = urls["shipping"], urls["psp"]
        self.app: web.Application | None = None

    async def request(
        self, method: str, url: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """One request: code, headers, body."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        names.setdefault("Content-Type", "application/json")
        async with self.session.request(method, url, data=body, headers=names) as response:
            return response.status, dict(response.headers), await response.read()

    async def send(
        self, saga_id: str, data: Mapping[str, Any] | None = None, *, via: str = "order",
        deadline: float | None = None, **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        """`POST /sagas` at the stage, as the neighbour `via` would."""
        trail = (TrailEntry(stage=via, at=AT),) if via else ()
        envelope = Envelope(
            saga_id=saga_id, data=dict(data or ORDER), deadline=deadline, trail=trail
        )
        url = f"{self.stage}/sagas"
        return await self.request("POST", url, encode_envelope(envelope), **headers)

    async def admitted(self, saga_id: str) -> tuple[int, dict[str, str], bytes]:
        """As `send`, and sent again while it is shed: a machine that is busy sheds starts."""
        answer = await self.send(saga_id)
        for _ in range(RESENDS_MAX):
            if answer[0] != 503:
                break
            await asyncio.sleep(float(answer[1]["Retry-After"]))
            answer = await self.send(saga_id)
        return answer

    async def compensate(
        self,
        saga_id: str,
        by: str = "order",
        reason: str = "asked",
        outcome: str = "",
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """`POST /sagas/{id}/compensate` at the stage; `outcome` is the word of the asker."""
        word = {"outcome": outcome} if outcome else {}
        body = msgspec.json.encode({"requested_by": by, "reason": reason, **word})
        url = f"{self.stage}/sagas/{saga_id}/compensate"
        return await self.request("POST", url, body, **headers)

    async def get(self, url: str) -> Any:
        """The JSON at an address."""
        status, _, body = await self.request("GET", url)
        return msgspec.json.decode(body) if status == 200 else None

    async def view(self, saga_id: str) -> dict[str, Any]:
        """The stage's view of a saga."""
        view: dict[str, Any] = await self.get(f"{self.stage}/sagas/{saga_id}")
        return view

    async def events(self, saga_id: str) -> list[str]:
        """The names of its journal's events."""
        view = await self.get(f"{self.stage}/sagas/{saga_id}?view=journal")
        return [entry["event"] for entry in view["entries"]]

    async def script(self, url: str, **script: Any) -> None:
        """Let a stub misbehave."""
        status, _, body = await self.request("PUT", f"{url}/script", msgspec.json.encode(script))
        assert status == 200, body

    async def until(self, saga_id: str, holds: Callable[[Mapping[str, Any]], bool]) -> Any:
        """The stage's view once that holds, looked at after every change of its journal."""
        url, seen = f"{self.stage}/sagas/{saga_id}", 0
        latest = time.monotonic() + UNTIL_SECONDS_MAX
        while time.monotonic() < latest:
            status, _, body = await self.request("GET", url)
            view = msgspec.json.decode(body) if status == 200 else {}
            if view and holds(view):
                return view
            if not view:  # nobody can wait for a saga that was never seen
                await asyncio.sleep(LOOK_SECONDS)
            path = f"{url}?view=journal&after={seen}"
            _, _, body = await self.request("GET", path, Prefer="wait=1")
            entries = msgspec.json.decode(body).get("entries", [])
            seen = entries[-1]["seq"] if entries else seen
        raise AssertionError(f"waited in vain: {view}")

    async def charges(self) -> tuple[int, int]:
        """Charges made and standing, by the books of the external API."""
        totals = (await self.get(f"{self.psp}/charges"))["totals"]
        return totals["made"], totals["standing"]

    async def until_charged(self) -> None:
        """Return when a charge has landed at the external API."""

        async def charged() -> int:
            return (await self.charges())[0]

        await until(charged)

    async def shipped(self, saga_id: str) -> dict[str, Any] | None:
        """The view of a saga at shipping."""
        found: dict[str, Any] | None = await self.get(f"{self.shipping}/sagas/{saga_id}")
        return found


ORDER: dict[str, Any] = {"order_id": "o-1", "amount": 100, "currency": "KRW"}


# Long because it lists the four services and all that a test may choose of them.
@asynccontextmanager
async def running_chain(
    folder: Path,
    *,
    stage: Stage[Any, Any] = payment,
    more_downstreams: Mapping[str, str] | None = None,
    connect: Callable[[str, str], str | Connection] = lambda _name, url: url,
    keys: Mapping[str, Keys] | None = None,
    orchestrators: Mapping[str, Connection] | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    shipping_calls_itself: str = "shipping",
    **options: Any,
) -> AsyncIterator[Chain]:
    """Start all four; `options` are those of `Config`, `keys` those of the stubs."""
    # Bound from here on: a port that is only known to be free is somebody else's a moment later.
    doors = {name: socket.create_server((HOST, 0)) for name in SERVICES}
    urls = {name: f"http://{HOST}:{door.getsockname()[1]}" for name, door in doors.items()}
    usual: dict[str, Any] = {
        "auth": "none",
        "database": f"sqlite:///{folder / 'payment.db'}",
        "upstreams": {"order": connect("order", urls["order"]), **(orchestrators or {})},
        "downstreams": {
            "shipping": connect("shipping", urls["shipping"]),
            **(more_downstreams or {}),
        },
        "externals": {"psp": connect("psp", urls["psp"])},
    }
    config = Config(service_name="payment", **{**usual, **options})
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        chain = Chain(session, urls)
        chain.app = build_app(
            stage, config, tracer_provider=tracer_provider, meter_provider=meter_provider
        )
        shown = keys or {}
        apps = {
            "psp": psp_service.make_app(),
            "shipping": make_downstream(
                name=shipping_calls_itself,
                upstream=urls["payment"],
                keys=shown.get("shipping", Keys()),
            ),
            "order": make_upstream(
                name="order",
                stage=urls["payment"],
                keys=shown.get("order", Keys()),
                script=BEGUN_ELSEWHERE,
            ),
            "payment": chain.app,
        }
        for name, app in apps.items():
            door = doors[name]
            server = TestServer(app, host=HOST, socket_factory=lambda *_, door=door: door)
            await server.start_server(shutdown_timeout=0.1)
            stack.push_async_callback(server.close)
        yield chain


__all__ = ["SERVICE", "HOST", "ORDER", "Chain", "running_chain"]
