"""Contents that are encrypted at rest: unreadable, tied to their place, under keys that rotate."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from stage.core import events as e
from stage.core.act_key import ActKey, KeptAct
from stage.core.errors import ConfigurationError
from stage.ports.codec import Codec
from stage.ports.store import TRACE_TERM, Filter, SagaRow, Store, Term, Unit
from stage.store.codec import PLAIN
from stage.store.postgres import payload_keys as on_postgres
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.link import connect
from stage.store.postgres.store import PostgresStore
from stage.store.reencryption import Reencrypted
from stage.store.sealed import PayloadKey, SealedCodec, new_key_line, parse_keys
from stage.store.sqlite import payload_keys as on_sqlite
from stage.store.sqlite.store import SqliteStore
from stage.wire.envelope import Envelope, payload_hash
from tests.unit.store.given import AT, longer, row

CANARY = "canary-card-4111"
ENVELOPE = Envelope(saga_id="a", data={"card": CANARY}, deadline=None)
RESULT = e.StepSucceeded(at=AT, step="charge", result=msgspec.Raw(b'{"id":"canary-card-4111"}'))
ACCEPTED = e.Accepted(at=AT, upstream="order")
ORDER = ActKey(key="k-1", digest="0d" * 32)
OLD, NEW = PayloadKey(b"o" * 32), PayloadKey(b"n" * 32)


def filled(codec: Codec) -> SagaRow:
    """A saga with contents in every place."""
    envelope = codec.encode_envelope(ENVELOPE)
    return replace(row("a"), envelope=envelope, fingerprint=payload_hash(ENVELOPE))


async def fill(store: Store) -> None:
    """Write the saga with two entries and an answer."""
    first = filled(store.codec)

    async def write(unit: Unit) -> None:
        await unit.insert(first, [ACCEPTED])
        answered = replace(longer(first, 1), answer_status=200, answer_body=CANARY.encode())
        await unit.save(answered, [RESULT], epoch=1)

    await store.transact(write)


async def check_whole(store: Store) -> None:
    """Everything is read back as it was written."""
    found = await store.get("a")
    assert found is not None
    assert CANARY.encode() == found.answer_body
    assert payload_hash(ENVELOPE) == found.fingerprint
    assert ENVELOPE.data == store.codec.decode_envelope("a", found.envelope).data
    assert [ACCEPTED, RESULT] == [entry.event for entry in await store.entries("a")]


Kind = Callable[[Codec], Store]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    """Opens the same database with a codec, each time anew."""
    if request.param == "sqlite":
        return lambda codec: SqliteStore(tmp_path / "stage.db", codec=codec)
    url = request.getfixturevalue("migrated_url")
    return lambda codec: PostgresStore(url, codec=codec)


@pytest.fixture
def reencrypt(
    request: pytest.FixtureRequest, make: Kind, tmp_path: Path
) -> Callable[[SealedCodec], Awaitable[Reencrypted]]:
    """Exchanges keys as another process would, beside whoever has the database open."""

    async def run(codec: SealedCodec) -> Reencrypted:
        if request.node.callspec.params["make"] == "sqlite":
            return await asyncio.to_thread(_in_file, tmp_path / "stage.db", codec)
        link = await connect(DatabaseServer(url=request.getfixturevalue("migrated_url")))
        try:
            return await on_postgres.reencrypt(link, codec)
        finally:
            await link.close()

    return run


def _in_file(path: Path, codec: SealedCodec) -> Reencrypted:
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        return on_sqlite.reencrypt(raw, codec)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def test_no_byte_of_the_file_or_its_log_shows_contents_or_their_hash(tmp_path: Path) -> None:
    """Looked at while the log has not been copied back, and after the end."""
    path = tmp_path / "stage.db"
    plain, sealed = SqliteStore(tmp_path / "plain.db"), SqliteStore(path, codec=SealedCodec((NEW,)))
    for store, there in ((plain, True), (sealed, False)):
        async with opened(store):
            await fill(store)
            await check_whole(store)
            stored = bytes_of(tmp_path, "plain.db*" if there else "stage.db*")
            for canary in (CANARY, payload_hash(ENVELOPE)):
                assert there == (canary.encode() in stored)
        stored = bytes_of(tmp_path, "plain.db*" if there else "stage.db*")
        assert there == (CANARY.encode() in stored)


def bytes_of(folder: Path, pattern: str) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob(pattern) if path.is_file())


async def test_contents_are_read_again_by_the_next_process(make: Kind) -> None:
    async with opened(make(SealedCodec((NEW,)))) as store:
        await fill(store)
    async with opened(make(SealedCodec((NEW,)))) as store:
        await check_whole(store)


@pytest.mark.parametrize("codec", [PLAIN, SealedCodec((OLD,))], ids=["none", "wrong"])
async def test_a_start_without_the_key_is_refused(make: Kind, codec: Codec) -> None:
    """Nothing is written: the next start with the right key finds all of it."""
    async with opened(make(SealedCodec((NEW,)))) as store:
        await fill(store)
    wrong = make(codec)
    with pytest.raises(ConfigurationError, match="payload_key_file"):
        await wrong.open()
    async with opened(make(SealedCodec((NEW, OLD)))) as store:
        await check_whole(store)


@pytest.mark.parametrize("before", [PLAIN, SealedCodec((OLD,))], ids=["clear", "old key"])
async def test_keys_are_exchanged_while_the_stage_is_up(
    make: Kind, reencrypt: Callable[[SealedCodec], Awaitable[Reencrypted]], before: Codec
) -> None:
    """Nothing is lost; afterwards the old key opens nothing and is needed for nothing."""
    async with opened(make(before)) as store:
        await fill(store)
    both, alone = SealedCodec((NEW, OLD)), SealedCodec((NEW,))
    async with opened(make(both)) as store:
        done = await reencrypt(SealedCodec((NEW, OLD)))
        await check_whole(store)
    assert 3 == done.renewed
    gone = "plain" if before is PLAIN else OLD.id.hex()
    assert (NEW.id.hex(), (gone,)) == (done.key, done.ended)
    async with opened(make(alone)) as store:
        await check_whole(store)


@pytest.mark.parametrize("before", [PLAIN, SealedCodec((OLD,))], ids=["clear", "old key"])
async def test_a_saga_is_found_by_its_number_once_the_older_key_is_gone(
    make: Kind, reencrypt: Callable[[SealedCodec], Awaitable[Reencrypted]], before: Codec
) -> None:
    """Its number and its trace; and no number is left in the clear."""
    envelope = Envelope(saga_id="a", data={"customer": {"number": 4711}, "n": [1]}, deadline=None)
    first = replace(row("a"), envelope=before.encode_envelope(envelope))
    terms = [Term("customer", "4711"), Term(TRACE_TERM, "ab" * 16)]
    async with opened(make(before)) as store:
        await store.transact(lambda unit: unit.insert(first, [ACCEPTED], terms))
    both, alone = SealedCodec((NEW, OLD)), SealedCodec((NEW,))
    async with opened(make(both)):
        await reencrypt(both)
        assert 0 == (await reencrypt(both)).renewed

    async with opened(make(alone)) as store:
        for term in terms:
            found = await store.page(Filter(limit=10, term=term))
            assert ["a"] == [each.id for each in found]


async def test_an_order_is_kept_by_a_keyed_digest(make: Kind) -> None:
    """A plain one of a short number is found by trial. A repeat is known also by an older key."""
    async with opened(make(SealedCodec((OLD,)))) as store:
        await store.transact(lambda unit: unit.keep_act_key(ORDER, AT))
    same, other = KeptAct(digest=ORDER.digest, at=AT), replace(ORDER, digest="1d" * 32)
    for keys in ((OLD,), (NEW, OLD)):
        async with opened(make(SealedCodec(keys))) as store:
            assert same == await store.act_under(ORDER)
            kept = await store.act_under(other)
            assert kept is not None and kept.digest not in (ORDER.digest, other.digest)


async def test_an_order_that_an_older_release_kept_is_known_again(make: Kind) -> None:
    """It kept the digest as it was, with a key of contents too, in a rolling update."""
    async with opened(make(PLAIN)) as store:
        await store.transact(lambda unit: unit.keep_act_key(ORDER, AT))
    async with opened(make(SealedCodec((NEW,)))) as store:
        assert KeptAct(digest=ORDER.digest, at=AT) == await store.act_under(ORDER)


async def test_a_live_saga_does_not_bring_an_older_key_back(
    make: Kind, reencrypt: Callable[[SealedCodec], Awaitable[Reencrypted]]
) -> None:
    """It holds the envelope as it was read, and writes it with every row."""
    async with opened(make(SealedCodec((OLD,)))) as store:
        await fill(store)
    async with opened(make(SealedCodec((NEW, OLD)))) as store:
        held = await store.get("a")
        assert held is not None
        await reencrypt(SealedCodec((NEW, OLD)))

        async def save(unit: Unit) -> None:
            assert held is not None
            await unit.save(longer(held, 1), [RESULT], epoch=1)

        await store.transact(save)
        assert 0 == (await reencrypt(SealedCodec((NEW, OLD)))).renewed


async def test_a_key_that_no_stage_uses_yet_encrypts_nothing(
    make: Kind, reencrypt: Callable[[SealedCodec], Awaitable[Reencrypted]]
) -> None:
    """A stage that is up would not read what it finds."""
    async with opened(make(SealedCodec((OLD,)))) as store:
        await fill(store)
        with pytest.raises(ConfigurationError, match="start the stage"):
            await reencrypt(SealedCodec((NEW, OLD)))
        await check_whole(store)


def test_bytes_open_only_at_their_place() -> None:
    """Not as those of another saga, of another entry, or of another kind."""
    codec = SealedCodec((NEW,))
    event = codec.encode_event("a", 1, RESULT)
    answer = codec.encode_answer("a", b"{}")
    assert RESULT == codec.decode_event("a", 1, event)
    for saga_id, number, moved in (("b", 1, event), ("a", 2, event), ("a", 1, answer)):
        with pytest.raises(ValueError, match="changed or moved"):
            codec.decode_event(saga_id, number, moved)
    with pytest.raises(ValueError, match="changed or moved"):
        codec.decode_event("a", 1, event[:-1] + bytes([event[-1] ^ 1]))
    with pytest.raises(ValueError, match="in the clear"):
        codec.decode_event("a", 1, PLAIN.encode_event("a", 1, RESULT))


def test_the_same_contents_are_never_the_same_bytes() -> None:
    codec = SealedCodec((NEW,))
    digest = payload_hash(ENVELOPE)
    assert codec.encode_answer("a", b"{}") != codec.encode_answer("a", b"{}")
    assert codec.encode_hash("a", digest) != codec.encode_hash("a", digest)


@pytest.mark.parametrize(
    "text, fix",
    [
        ("", "holds no key"),
        ("# only words\n", "holds no key"),
        ("secret-canary\n", "line 1 is no key"),
        (f"{'A' * 43}\n{'A' * 43}\n", "twice"),
        ("\n".join(new_key_line() for _ in range(9)), "more than 8"),
    ],
)
def test_a_wrong_file_of_keys_is_refused_without_quoting_it(text: str, fix: str) -> None:
    with pytest.raises(ValueError, match=fix) as refused:
        parse_keys(text)
    assert "canary" not in str(refused.value)


def test_no_repr_shows_a_key() -> None:
    shown = repr((parse_keys(new_key_line()), OLD, SealedCodec((OLD, NEW))))
    assert "oooo" not in shown and "nnnn" not in shown
    assert OLD.id.hex() in shown
