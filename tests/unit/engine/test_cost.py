"""The cost of the usual saga in commits, statements and hops, which do not flicker as time does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from stage.bootstrap import make_store
from stage.config import Config
from stage.demo.payment import payment
from stage.engine.embedded import pauses, recovery, sweeps
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.saga.journal import RUNNING_SECONDS, Journal
from stage.ports.external import ExternalRequest
from stage.ports.neighbour import (
    Compensated,
    CompensateReply,
    Executed,
    ForwardReply,
    OutcomeReply,
    ShownExecuted,
)
from stage.ports.observer import TraceContext
from stage.ports.peers import Peers
from stage.ports.stage import Answer, Lost
from stage.ports.store import SagaRow
from stage.store.sqlite import watch
from stage.store.sqlite.bridge import Bridge
from stage.store.sqlite.store import SqliteLimits, SqliteStore
from stage.store.writer import Writer
from stage.telemetry.null import NullObserver
from stage.wire.chain import ChainView
from stage.wire.envelope import Envelope
from stage.wire.replies import CompensateRequest
from stage.wire.shared import SharedPage

ORDER: dict[str, Any] = {"order_id": "o-1", "amount": 100, "currency": "KRW"}
SAGAS = 20


class Counting(sqlite3.Connection):
    """Counts the statements that run, by their first word."""

    counted: ClassVar[Counter[str]] = Counter()

    def execute(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """Count, and run."""
        self.counted[sql.split(maxsplit=1)[0].upper()] += 1
        return super().execute(sql, *rest)

    def executemany(self, sql: str, *rest: Any) -> sqlite3.Cursor:
        """Count once, and run."""
        self.counted[sql.split(maxsplit=1)[0].upper()] += 1
        return super().executemany(sql, *rest)


class Agreeable:
    """Peers whose every answer is yes, at once."""

    @property
    def peers(self) -> Peers:
        """As the engine takes them."""
        return Peers(external=self, neighbours=self)

    def name_of_today(self, peer: str) -> str:
        """See ports.neighbour.Neighbours."""
        return peer

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See ports.neighbour.Neighbours."""
        return (peer,)

    def is_upstream(self, peer: str) -> bool:
        """Every peer."""
        return True

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """A charge, or its refund."""
        return Answer(status=200, headers=(), body=b'{"id":"c-1","refunded":1}')

    async def forward(self, peer: str, saga_id: str, body: bytes, **_: Any) -> ForwardReply:
        """Done."""
        return Executed(data=msgspec.Raw(b'{"shipping":{}}'))

    async def get_outcome(self, peer: str, saga_id: str, **_: Any) -> OutcomeReply:
        """It is done."""
        return ShownExecuted()

    async def compensate(
        self, peer: str, saga_id: str, request: CompensateRequest, **_: Any
    ) -> CompensateReply:
        """Done."""
        return Compensated()

    async def get_shared(self, peer: str, asker: str, **_: Any) -> SharedPage | Lost:
        """Nobody asks."""
        raise NotImplementedError

    async def get_chain(self, peer: str, saga_id: str, **_: Any) -> ChainView | Lost:
        """Nobody asks here."""
        return Lost(reason="not asked")


class Counted:
    """An engine on a real file, and how often its threads were crossed."""

    def __init__(self, engine: EmbeddedEngine, hops: Counter[str]) -> None:
        self.engine = engine
        self.hops = hops

    async def run(self, saga_id: str) -> None:
        """One saga to its end."""
        reply = await self.engine.accept(
            Envelope(saga_id=saga_id, data=ORDER),
            trace=TraceContext(),
            deadline=None,
            respond_async=False,
            wait_seconds=20.0,
        )
        assert reply is not None
        assert 200 == reply.status


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is: these looks go by the clock, and are no saga's."""
    monkeypatch.setattr(recovery, "RECOVERY_SCAN_SECONDS", 3_600.0)
    monkeypatch.setattr(pauses, "PAUSE_LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr(sweeps, "SWEEP_LOOK_SECONDS", 3_600.0)
    monkeypatch.setattr(watch, "LOOK_SECONDS", 3_600.0)  # two SELECTs, twice a second


@pytest.fixture(params=[(), ("shipping",)], ids=["last of the chain", "with a downstream"])
async def counted(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Counted]:
    hops: Counter[str] = Counter()
    run = Bridge.run

    async def counting(self: Bridge, work: Any, *arguments: Any) -> Any:
        if work.__name__ != "_look":  # at the file, by the clock: no saga's
            hops[work.__name__] += 1
        return await run(self, work, *arguments)

    hand_over = Writer._hand_over

    def handing(self: Writer, batch: Any) -> None:
        hops["_hand_over"] += 1
        hand_over(self, batch)

    usual = make_store(payment, Config(database=f"sqlite:///{tmp_path / 'unused.db'}"))
    assert isinstance(usual, SqliteStore)
    store = SqliteStore(
        tmp_path / "stage.db",
        migrations=usual._migrations,
        limits=SqliteLimits(readers=1, deferral_seconds_max=60.0),  # however slow this machine is
        factory=Counting,
    )
    await store.open()
    inspection = store._watch._inspection
    assert inspection is not None
    await inspection  # one read a start, which is no saga's and may come late
    engine = EmbeddedEngine(payment.bind(request.param), store, Agreeable().peers, NullObserver())
    await engine.start()
    monkeypatch.setattr(Bridge, "run", counting)
    monkeypatch.setattr(Writer, "_hand_over", handing)
    made = Counted(engine, hops)
    await made.run("warm-up")  # by then the first round of retention is over
    Counting.counted.clear()
    hops.clear()
    yield made
    await engine.drain(1.0)
    await store.close()


async def test_the_usual_saga_takes_so_many_commits_statements_and_hops(
    counted: Counted, request: pytest.FixtureRequest
) -> None:
    """Two awaited commits, with a downstream or without: its answer goes with the next saga's.

    One hop a commit, whatever the transactions of the author do in between.
    """
    units = 3 if "downstream" in request.node.callspec.id else 2
    for number in range(SAGAS):
        await counted.run(f"s-{number}")
    counts = {word: count / SAGAS for word, count in Counting.counted.items()}
    assert 2 == counts["COMMIT"], counts
    # The thread of the writer waits for units where it is, and calls back once a batch.
    # A slow machine meets a round of the engine meanwhile, which reads; a saga itself does not.
    fetched = counted.hops.pop("_fetch", 0)
    assert fetched < SAGAS / 2
    assert {"_hand_over": 2 * SAGAS} == counted.hops
    # Nothing is marked as long as no function of the author fails after it has written.
    assert "SAVEPOINT" not in counts and "RELEASE" not in counts, counts
    # By the author: INSERT, UPDATE. By us: a row inserted once and saved by every further unit,
    # the journal appended by each, and the number of the batch.
    assert 1 + 1 + units == counts["INSERT"], counts
    assert 1 + (units - 1) + 2 == counts["UPDATE"], counts
    # One read may have been on its way to the only reader when the counting began.
    assert SAGAS <= Counting.counted["SELECT"] <= SAGAS + fetched + 1, counts


async def test_sagas_that_come_at_once_share_commits(counted: Counted) -> None:
    """Group commit: many sagas, few fsyncs."""
    await asyncio.gather(*(counted.run(f"s-{number}") for number in range(SAGAS)))
    assert Counting.counted["COMMIT"] < SAGAS


async def test_the_saves_of_a_run_leave_the_instant_at_which_it_is_due(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in an index of every database, which a save then need not write (decision 0063)."""
    due: list[float] = []

    def listening(made: Callable[..., SagaRow]) -> Callable[..., SagaRow]:
        def row(*arguments: Any, **named: Any) -> SagaRow:
            found = made(*arguments, **named)
            if found.due_at is not None:
                due.append(found.due_at)
            return found

        return row

    for name in ("row", "_row_on_fast_path"):
        monkeypatch.setattr(Journal, name, listening(getattr(Journal, name)))
    await counted.run("s-1")
    assert due
    assert {0.0} == {each % RUNNING_SECONDS for each in due}
