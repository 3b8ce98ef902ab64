"""The door for late failures: who may come, under which name, and the answers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from temporalio.service import RPCError, RPCStatusCode

from stage.demo.chain import free_ports
from stage.inbound.accept_files import AcceptFile, TokenCallers
from stage.inbound.caller import Callers, Claims
from stage.inbound.principal import Kind, Principal
from stage.orchestrators.temporal import door as door_module
from stage.orchestrators.temporal.door import Door
from stage.orchestrators.temporal.workflow import CompensateAsk
from stage.wire.tokens import accept_line
from tests.waits import HANG_SECONDS

STAGES = ("payment", "shipping")
PATH = "/sagas/o-1/compensate"


class Asked:
    """Stands where Temporal does: keeps the requests, or is away."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, CompensateAsk]] = []
        self.away = False

    async def compensate(self, saga_id: str, ask: CompensateAsk) -> None:
        """See `Chain`."""
        if self.away:
            raise RPCError("connection refused", RPCStatusCode.UNAVAILABLE, b"")
        self.asked.append((saga_id, ask))


async def post(
    chain: Asked,
    body: dict[str, Any],
    *,
    callers: Callers | None = None,
    path: str = PATH,
    token: str = "",
) -> tuple[int, dict[str, Any]]:
    """The code and the body of the answer."""
    door = Door(chain, STAGES, callers or Claims())  # type: ignore[arg-type] # it asks no more
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with TestClient(TestServer(door.make_app())) as client:
        answer = await client.post(path, json=body, headers=headers)
        return answer.status, await answer.json(content_type=None)


async def test_a_late_failure_is_taken_over() -> None:
    """202 is enough for a stage: its upstream has it."""
    chain = Asked()
    body = {"requested_by": "shipping", "reason": "lost", "outcome": "compensated"}

    answer = await post(chain, body)

    assert (202, {"saga_id": "o-1", "outcome": "in_progress"}) == answer
    ask = CompensateAsk(requested_by="shipping", reason="lost", own_word=True)
    assert [("o-1", ask)] == chain.asked


@pytest.mark.parametrize(
    "body",
    [{"requested_by": "shipping"}, {"requested_by": "kim", "outcome": "compensated"}],
    ids=["no word", "no stage"],
)
async def test_without_the_word_of_a_stage_all_are_asked(body: dict[str, Any]) -> None:
    """Something stands at a stage that gives no word, and a stranger to the chain has none."""
    chain = Asked()

    status, _ = await post(chain, body)

    assert (202, False) == (status, chain.asked[0][1].own_word)


async def test_a_stage_asks_under_the_name_of_its_token(tmp_path: Path) -> None:
    """Its body cannot clear another stage, and without a token nothing is asked."""
    token, unknown = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    (tmp_path / "shipping").write_text(f"{accept_line(token)}\n")
    principal = Principal(kind=Kind.DOWNSTREAM, name="shipping")
    file = AcceptFile(place="stages.shipping", path=str(tmp_path / "shipping"), principal=principal)
    callers = TokenCallers((file,), warn=lambda _: None)
    await callers.open()
    chain = Asked()
    body = {"requested_by": "payment", "outcome": "compensated"}

    stranger = await post(chain, body, callers=callers)
    other = await post(chain, body, callers=callers, token=unknown)
    own = await post(chain, body, callers=callers, token=token)

    assert [401, 401, 202] == [answer[0] for answer in (stranger, other, own)]
    assert ["shipping"] == [ask.requested_by for _, ask in chain.asked]


async def test_while_temporal_is_away_the_stage_asks_again() -> None:
    """503 with unknown: nothing was taken over."""
    chain = Asked()
    chain.away = True

    status, problem = await post(chain, {"requested_by": "shipping"})

    assert (503, "unknown", True) == (status, problem["outcome"], problem["retryable"])


@pytest.mark.parametrize(
    "path, body, expected",
    [
        (PATH, {"requested_by": 1}, 422),
        ("/sagas/o%201/compensate", {}, 422),
        ("/sagas", {}, 404),
    ],
)
async def test_a_wrong_request_is_a_problem(path: str, body: dict[str, Any], expected: int) -> None:
    """As everywhere in the protocol."""
    chain = Asked()

    status, problem = await post(chain, body, path=path)

    assert (expected, expected) == (status, problem["status"])
    assert [] == chain.asked


HOST = "127.0.0.1"
HEAD = b"POST /sagas/o-1/compensate HTTP/1.1\r\nHost: 127.0.0.1\r\n"
JSON = b"Content-Type: application/json\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"


@pytest.fixture
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Asked, int]]:
    """A door that listens, and its port."""
    monkeypatch.setattr(door_module, "BODY_SECONDS_MAX", 0.2)
    chain, [port] = Asked(), free_ports(1)
    door = Door(chain, STAGES, Claims())  # type: ignore[arg-type] # it asks no more
    async with door.open(HOST, port):
        yield chain, port


async def raw(port: int, sent: bytes) -> tuple[int, bytes, Any]:
    """The code, the head and the body of the answer to bytes as they are."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(sent)
    async with asyncio.timeout(HANG_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split()[0])
        body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), head, msgspec.json.decode(body) if body else None


@pytest.mark.parametrize(
    "headers, expected",
    [
        (EMPTY, 415),
        (b"Content-Type: text/plain\r\n" + EMPTY, 415),
        (JSON + b"Content-Encoding: gzip\r\n" + EMPTY, 415),
        (JSON + b"Origin: http://evil.example\r\n" + EMPTY, 403),
        (JSON + b"Sec-Fetch-Site: cross-site\r\n" + EMPTY, 403),
        (JSON + b"Host: evil.example\r\n" + EMPTY, 403),
        (JSON + b"Content-Length: 99999999\r\n\r\n", 413),
        (JSON + b"Content-Length: 9\r\n\r\n{", 408),
        (JSON + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (JSON + b"Bad Header\r\n" + EMPTY, 400),
        (JSON + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", 413),
        (JSON + b"Expect: 200-ok\r\n" + EMPTY, 417),
    ],
)
async def test_the_edge_of_the_door_is_that_of_a_stage(
    opened: tuple[Asked, int], headers: bytes, expected: int
) -> None:
    """A page of a stranger, or a body that stalls, compensates nothing."""
    chain, port = opened

    named = HEAD.partition(b"Host")[0] if b"Host" in headers else HEAD
    status, head, problem = await raw(port, named + headers)

    assert (expected, expected) == (status, problem["status"]), problem
    assert "not_executed" == problem["outcome"]
    assert b"Server: stage" in head
    assert [] == chain.asked


async def test_a_request_of_a_stage_gets_in_at_the_open_door(opened: tuple[Asked, int]) -> None:
    """Without it the refusals would prove nothing."""
    chain, port = opened

    status, _, body = await raw(port, HEAD + JSON + EMPTY)

    assert (202, "in_progress") == (status, body["outcome"])
    assert ["o-1"] == [saga_id for saga_id, _ in chain.asked]


async def test_a_look_at_the_door_is_kept_by_no_gateway(opened: tuple[Asked, int]) -> None:
    """405 says which method it takes."""
    _, port = opened

    status, head, _ = await raw(port, HEAD.replace(b"POST", b"GET") + b"\r\n")

    assert 405 == status
    assert b"Cache-Control: no-store" in head and b"Allow: POST" in head


async def test_a_stranger_is_asked_for_a_token(tmp_path: Path) -> None:
    """401 names the scheme, as HTTP demands."""
    principal = Principal(kind=Kind.DOWNSTREAM, name="shipping")
    (tmp_path / "shipping").write_text(f"{accept_line(secrets.token_urlsafe(32))}\n")
    file = AcceptFile(place="stages.shipping", path=str(tmp_path / "shipping"), principal=principal)
    callers = TokenCallers((file,), warn=lambda _: None)
    await callers.open()
    [port] = free_ports(1)
    async with Door(Asked(), STAGES, callers).open(HOST, port):  # type: ignore[arg-type]
        status, head, _ = await raw(port, HEAD.replace(b"127.0.0.1", b"any.name") + JSON + EMPTY)

    assert (401, True) == (status, b"WWW-Authenticate: Bearer" in head)
