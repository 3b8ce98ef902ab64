"""The contents of a saga pass one codec on their way to the disk, and nothing goes around it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.errors import StoreUnavailable
from stage.core.states import ParkCause
from stage.demo.payment import payment
from stage.engine.embedded.engine import EmbeddedEngine
from stage.ports.codec import Codec
from stage.ports.engine import Reply
from stage.ports.observer import TraceContext
from stage.ports.store import Store, Unit
from stage.store.codec import PLAIN
from stage.store.memory import MemoryStore
from stage.store.sqlite.store import SqliteStore
from stage.telemetry.null import NullObserver
from stage.wire.envelope import Envelope
from tests.unit.engine.test_cost import Agreeable
from tests.unit.store.given import AT, longer, row

SECRET = "a-secret-of-the-customer"
ENVELOPE = Envelope(
    saga_id="a", data={"order_id": SECRET, "amount": 100, "currency": "KRW"}, deadline=None
)


class Mirror:
    """A codec that writes every byte the other way round, behind the saga it belongs to."""

    def _seal(self, saga_id: str, clear: bytes) -> bytes:
        return b"\xff" + saga_id.encode() + b"\xff" + clear[::-1]

    def _open(self, saga_id: str, sealed: bytes) -> bytes:
        head = b"\xff" + saga_id.encode() + b"\xff"
        if not sealed.startswith(head):
            raise ValueError(f"these bytes do not belong to saga {saga_id}")
        return sealed[len(head) :][::-1]

    def encode_envelope(self, envelope: Envelope) -> bytes:
        return self._seal(envelope.saga_id, PLAIN.encode_envelope(envelope))

    def decode_envelope(self, saga_id: str, encoded: bytes) -> Envelope:
        return PLAIN.decode_envelope(saga_id, self._open(saga_id, encoded))

    def admit(self, recorded: Collection[str]) -> str:
        return "mirror"

    def renew_envelope(self, saga_id: str, encoded: bytes) -> bytes:
        return encoded

    def encode_hash(self, saga_id: str, payload_hash: str) -> str:
        return payload_hash[::-1]

    def decode_hash(self, saga_id: str, encoded: str) -> str:
        return encoded[::-1]

    def encode_term(self, name: str, value: str) -> str:
        return value[::-1]

    def known_terms(self, name: str, value: str) -> list[str]:
        return [value[::-1]]

    def encode_event(self, saga_id: str, number: int, event: e.Event) -> bytes:
        return self._seal(saga_id, PLAIN.encode_event(saga_id, number, event))

    def decode_event(self, saga_id: str, number: int, encoded: bytes) -> e.Event:
        return PLAIN.decode_event(saga_id, number, self._open(saga_id, encoded))

    def encode_answer(self, saga_id: str, body: bytes) -> bytes:
        return self._seal(saga_id, body)

    def decode_answer(self, saga_id: str, encoded: bytes) -> bytes:
        return self._open(saga_id, encoded)


Opened = TypeVar("Opened", bound=Store)


@asynccontextmanager
async def opened(store: Opened) -> AsyncIterator[Opened]:
    """The store, closed whatever the test finds: its threads would outlive a failure."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize("codec", [PLAIN, Mirror()], ids=["plain", "mirror"])
def test_an_encoded_value_is_decoded_equal(codec: Codec) -> None:
    """Each kind; an envelope is never empty, which would make a tombstone of it."""
    event = e.StepSucceeded(at=AT, step="charge", result=msgspec.Raw(b'{"id":"c-1"}'))
    assert codec.encode_envelope(ENVELOPE)
    assert ENVELOPE == codec.decode_envelope("a", codec.encode_envelope(ENVELOPE))
    assert event == codec.decode_event("a", 2, codec.encode_event("a", 2, event))
    for body in (b"", b'{"outcome":"executed"}'):
        assert body == codec.decode_answer("a", codec.encode_answer("a", body))


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_store_reads_back_what_it_was_given(tmp_path: Path, kind: str) -> None:
    """In a unit and outside of one, whatever the codec."""
    store: Store
    if kind == "memory":
        store = MemoryStore(codec=Mirror())
    else:
        store = SqliteStore(tmp_path / "stage.db", codec=Mirror())
    first = replace(row("a"), envelope=store.codec.encode_envelope(ENVELOPE))
    accepted, parked = (
        e.Accepted(at=AT, upstream=SECRET),
        e.Parked(at=AT, cause=ParkCause.DEFECT, reason="why"),
    )
    saved = replace(longer(first, 1), answer_body=SECRET.encode())

    async def write(unit: Unit) -> None:
        await unit.insert(first, [accepted])
        await unit.save(saved, [parked], epoch=1)
        assert saved == await unit.load("a")
        assert [accepted, parked] == [entry.event for entry in await unit.journal("a")]

    async with opened(store):
        await store.transact(write)
        assert saved == await store.get("a")
        assert [accepted, parked] == [entry.event for entry in await store.entries("a")]


async def run(store: SqliteStore) -> Reply:
    """The saga by the demo's stage, on an engine of its own."""
    engine = EmbeddedEngine(payment.bind(()), store, Agreeable().peers, NullObserver())
    await engine.start()
    try:
        reply = await engine.accept(
            ENVELOPE,
            trace=TraceContext(),
            deadline=None,
            respond_async=False,
            wait_seconds=20.0,
        )
    finally:
        await engine.drain(1.0)
    assert reply is not None
    return reply


async def test_nothing_of_the_contents_is_at_rest_but_by_the_codec(tmp_path: Path) -> None:
    """A whole saga: envelope, requests, results and answer are sealed, and a duplicate is answered.

    Our tables only: what a transaction of the author writes is the author's.
    """
    path = tmp_path / "stage.db"
    assert payment.migrations is not None
    replies = []
    for _ in range(2):
        store = SqliteStore(path, migrations=[payment.migrations], codec=Mirror())
        async with opened(store), asyncio.timeout(30):
            replies.append(await run(store))
    assert 200 == replies[0].status
    assert (replies[0].body, True) == (replies[1].body, replies[1].replayed)

    with closing(sqlite3.connect(path)) as connection:
        rows: list[tuple[Any, ...]] = connection.execute("SELECT * FROM saga").fetchall()
        rows += connection.execute("SELECT * FROM journal").fetchall()
    blobs = [value for row in rows for value in row if isinstance(value, bytes)]
    assert len(blobs) > 5
    assert all(blob.startswith(b"\xffa\xff") for blob in blobs)
    assert any(SECRET.encode()[::-1] in blob for blob in blobs)
    assert SECRET not in repr(rows)


async def test_the_file_of_another_codec_is_not_read(tmp_path: Path) -> None:
    """It is an error of the saga that is read, and the store is not said to be away."""
    path = tmp_path / "stage.db"

    async def write(unit: Unit) -> None:
        await unit.insert(row("a"), [e.Accepted(at=AT)])

    async with opened(SqliteStore(path)) as store:
        await store.transact(write)
    async with opened(SqliteStore(path, codec=Mirror())) as store:
        with pytest.raises(ValueError, match="do not belong to saga a") as raised:
            await store.get("a")
        assert not isinstance(raised.value, StoreUnavailable)
        assert store.available
