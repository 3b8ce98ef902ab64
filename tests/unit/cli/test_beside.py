"""The other shards of a stage say whether a saga is theirs, or nobody knows."""

from __future__ import annotations

import msgspec
import pytest

from stage.cli.beside import Shards
from stage.cli.failure import Failure
from stage.inbound.views import never_seen
from stage.wire.outcome import Outcome
from stage.wire.views import SagaView
from tests.unit.cli.programs import Neighbour, neighbour

pytestmark = pytest.mark.blocking

SHARD = b'{"name": "payment", "accepts": {}, "adds": {}, "compensation_window_seconds": 0}'
NOT_HERE = msgspec.json.encode(never_seen("s-1").problem())
AT = "2026-11-23T02:30:00.000Z"


def shown(saga_id: str) -> bytes:
    """The view of a saga."""
    return msgspec.json.encode(
        SagaView(
            saga_id=saga_id,
            stage="payment",
            state="completed",
            outcome=Outcome.EXECUTED,
            accepted_at=AT,
            updated_at=AT,
        )
    )


def a_shard(server: Neighbour, status: int, body: bytes) -> Shards:
    """A shard that answers so for s-1."""
    server.answer("GET /.well-known/stage", 200, SHARD)
    server.answer("GET /sagas/s-1", status, body)
    return Shards([server.url], "payment")


@pytest.mark.parametrize(
    "status, body, belongs", [(404, NOT_HERE, True), (200, shown("s-1"), False)]
)
async def test_a_saga_belongs_here_that_no_other_shard_has(
    status: int, body: bytes, belongs: bool
) -> None:
    with neighbour() as server:
        shards = a_shard(server, status, body)
        assert belongs is await shards.belong("s-1")
        assert (set() if belongs else {"s-1"}) == shards.has


@pytest.mark.parametrize(
    "status, body",
    [
        (404, b"<html>not found</html>"),
        (404, b'{"title": "Not Found", "status": 404}'),
        (410, b'{"title": "Past retention", "status": 410}'),
        (503, b'{"title": "It awaits its release", "status": 503}'),
        (200, b"<html>log in</html>"),
        (200, shown("s-2")),
    ],
)
async def test_any_other_answer_is_none(status: int, body: bytes) -> None:
    """A page of a gateway says neither that a saga is there nor that it is not."""
    with neighbour() as server:
        shards = a_shard(server, status, body)
        with pytest.raises(Failure, match=f"option --beside: {server.url}"):
            await shards.belong("s-1")


def test_another_stage_is_no_shard() -> None:
    """It may have the saga too, as a neighbour, and would hide that it was lost here."""
    with neighbour() as server:
        server.answer("GET /.well-known/stage", 200, SHARD.replace(b"payment", b"order"))
        with pytest.raises(Failure, match="it is stage 'order', and no shard of 'payment'"):
            Shards([server.url], "payment")
