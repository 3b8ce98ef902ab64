"""The door for late failures: who may come, under which name, and the answers."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from temporalio.service import RPCError, RPCStatusCode

from stage.inbound.accept_files import AcceptFile, TokenCallers
from stage.inbound.caller import Callers, Claims
from stage.inbound.principal import Kind, Principal
from stage.orchestrators.temporal.door import Door
from stage.orchestrators.temporal.workflow import CompensateAsk
from stage.wire.tokens import accept_line

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
