"""F7: the power goes at any instant, and what was not synced may be gone."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.store.sqlite.store import SqliteStore
from tests.acceptance.kills import stages
from tests.acceptance.kills.bench import STRACE, Bench, CannotTrace, placing, undoing
from tests.acceptance.kills.http1 import Message, Peer
from tests.acceptance.kills.powerloss import STRACE_OPTIONS, Disk, Event, events, message_of
from tests.kits import Strikes
from tests.sizes import SIZES, TIER

CUTS = SIZES.cuts
SEED = SIZES.seed
SAGAS_PER_RUN = (420, 40)
"""The first run is long enough for the log to be copied back under load (16 MiB), and ends with
SIGTERM, which empties it; the second starts from that and is cut off."""
AT_ONCE = 10
RECOVERIES = CUTS // 10
"""Cuts after which the stage is started and finishes what it finds."""
REST_SECONDS_MAX = 30.0
ENDED = ("completed", "compensated")
DUE = "SELECT count(*) FROM saga WHERE due_at IS NOT NULL OR state IN ('active', 'compensating')"
CHARGES = """
SELECT saga_id, sum(made), sum(made) - sum(refunded), sum(mismatched) FROM charge GROUP BY saga_id
"""
EVENTS_AFTER_MAKING = 12
"""Until the first writes of a database that is whole: its change to a write-ahead log."""
CUTS_OF_MAKING = 4
STRIDE_OF_MAKING = 1 if TIER == "prove" else 3
"""While a database is made, the power is lost at one event in so many."""
NAMED = ("made", "renamed", "removed")
"""Events after which a name may be lost."""
KEPT = (0.0, 0.5, 0.9, 1.0)
"""The share of un-synced writes that a cut leaves on the disk."""


@dataclass(slots=True)
class Said:
    """The promises and requests of one saga that had left when the power went."""

    outcomes: set[str]
    answer: bytes
    """To the request itself, once it was final."""
    intents: set[str]
    """Entries that must be in the journal, because what they announce has left."""


INTENTS = {
    "/charges": "step_started charge",
    "/refunds": "compensation_started charge",
    "/sagas": "step_started forward:shipping",
    "/compensate": "compensation_started forward:shipping",
}
"""By the end of the path of what leaves: the entry that must be durable before it does (rule 1)."""


DONE = (
    "step_succeeded reserve",
    "step_succeeded charge",
    "step_succeeded record",
    "step_started forward:shipping",
)
"""The entries of a saga that lacks no more than its end."""


async def record(bench: Bench) -> list[Event]:
    """The writes, syncs and messages of two runs of a stage, in order."""
    found: list[Event] = []
    async with bench.neighbours():
        for run, sagas in enumerate(SAGAS_PER_RUN):
            trace = bench.folder / f"trace-{run}.txt"
            tracer = await bench.start_traced(trace, *STRACE_OPTIONS)
            await bench.stage.until_listening()
            names = iter(range(sagas))
            async with asyncio.TaskGroup() as clients:
                for _ in range(AT_ONCE):
                    clients.create_task(_client(bench.port, run, names))
            if run == 0:
                assert 0 == await bench.stage.stop()
            await bench.stage.kill()
            await tracer.wait()
            found += events(trace, bench.folder)
            trace.unlink()
    return found


async def _client(port: int, run: int, names: Any) -> None:
    peer = Peer(port)
    for number in names:
        saga_id = f"p{run}-{number}" + ("-refused" if number % 7 == 3 else "")
        answer = await peer.ask(placing(saga_id), 30.0)
        assert answer.status in (200, 409)
        if number % 5 == 2:
            assert 200 == (await peer.ask(undoing(saga_id, by="order"), 30.0)).status
    peer.close()


def hear(said: dict[str, Said], event: Event) -> None:
    """Remember what one message promised or presupposed."""
    message = message_of(event)
    if message.head.startswith(b"HTTP/1.1 "):
        body = msgspec.json.decode(message.body)
        known = said.setdefault(body["saga_id"], Said(set(), b"", set()))
        known.outcomes.add(body["outcome"])
        if "data" in body:
            known.answer = message.body
        return
    path = message.start.split(" ")[1]
    for end, intent in INTENTS.items():
        if path.endswith(end):
            whose = path.split("/")[2] if end == "/compensate" else _key_of(message)
            said.setdefault(whose, Said(set(), b"", set())).intents.add(intent)


def _key_of(message: Message) -> str:
    return message.header("Idempotency-Key").partition(":")[0]


async def open_store(database: Path) -> None:
    """The first steps of a start: migrate, and read which sagas are due."""
    store = SqliteStore(database, migrations=(_migrations(),))
    await store.open()
    try:
        await store.due(float("inf"), 10_000)
    finally:
        await store.close()


def _migrations() -> Any:
    assert stages.payment.migrations is not None
    return stages.payment.migrations


def broken(database: Path, said: dict[str, Said]) -> list[str]:
    """Every promise that the database does not keep."""
    wrong: list[str] = []
    with closing(sqlite3.connect(database)) as books:
        if (checked := books.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
            wrong.append(f"integrity: {checked[:3]}")
        sagas = {
            row[0]: row[1:] for row in books.execute("SELECT id, state, answer_body FROM saga")
        }
        entries = set(
            books.execute(
                "SELECT saga_id, name || ' ' || coalesce(json_extract(event, '$.step'), '')"
                " FROM journal"
            )
        )
    for saga_id, known in said.items():
        state, answer = sagas.get(saga_id, ("lost", b""))
        if state == "lost":
            wrong.append(f"{saga_id}: lost, after {known.outcomes} and {known.intents}")
        if "compensated" in known.outcomes and state != "compensated":
            wrong.append(f"{saga_id}: answered compensated, is {state}")
        asked = (saga_id, "compensation_requested ") in entries
        # Of an end only the yes of downstream may be missing, which it says again (decision 0011).
        to_be_asked_again = state == "active" and all((saga_id, each) in entries for each in DONE)
        if "executed" in known.outcomes and not (
            state == "completed" or asked or to_be_asked_again
        ):
            wrong.append(f"{saga_id}: answered executed, is {state}")
        if known.answer and state == "completed" and answer != known.answer:
            wrong.append(f"{saga_id}: another answer than the one that was given")
        missing = {intent for intent in known.intents if (saga_id, intent) not in entries}
        wrong += [f"{saga_id}: left without its intent: {intent}" for intent in sorted(missing)]
    return wrong


def instants(recording: Sequence[Event], dice: random.Random, cuts: int) -> list[int]:
    """When the power goes: mostly when something was just promised, or a file made or removed.

    Some while the log is copied back: few events of many, so that chance alone may miss them all.
    """
    copied = [
        number
        for number, event in enumerate(recording)
        if event.what == "wrote" and event.path.endswith(".db")
    ]
    named = [number for number, event in enumerate(recording) if event.what in NAMED]
    sent = [number for number, event in enumerate(recording) if event.what == "sent"]
    found = named[: cuts // 4] + dice.sample(copied, min(len(copied), cuts // 8))
    found += dice.sample(sent, cuts // 2)
    return sorted(found + dice.sample(range(len(recording)), cuts - len(found)))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """The folder that was recorded, and what was."""
    if STRACE is None:
        pytest.skip("strace is not installed")

    async def whole() -> tuple[Path, list[Event]]:
        async with Bench(tmp_path_factory.mktemp("recorded")).prepared() as bench:
            return bench.folder, await record(bench)

    try:
        return asyncio.run(whole())
    except CannotTrace as error:
        pytest.skip(f"strace may not trace here: {error}")


@pytest.mark.kit("F7")
@pytest.mark.timeout(240)
def test_nothing_that_was_acknowledged_is_lost(
    recording: tuple[Path, list[Event]], tmp_path: Path, strikes: Strikes
) -> None:
    """Every cut leaves a sound database that keeps what was answered and what had left."""
    folder, happened = recording
    dice = random.Random(SEED)
    disk, said, wrong = Disk(folder), dict[str, Said](), list[str]()
    cuts = Counter(instants(happened, dice, CUTS))
    acknowledged = 0
    for number, event in enumerate(happened):
        if event.what == "sent":
            hear(said, event)
        else:
            disk.play(event)
        for cut in range(cuts[number]):
            kept = dice.choice(KEPT)
            place = tmp_path / f"{number}-{cut}"
            put(place, disk.after_power_loss(dice, kept))
            asyncio.run(open_store(place / "payment.db"))
            found = broken(place / "payment.db", said)
            wrong += [f"cut {number} ({event.what}), {kept} kept: {what}" for what in found]
            acknowledged += len(said)
            shutil.rmtree(place)
    note = (
        f"{disk.dropped.total()} writes dropped, {disk.torn} torn,"
        f" {acknowledged} acknowledgements held"
    )
    strikes.report("cuts", cuts.total(), violations=len(wrong), seed=SEED, note=note)
    assert [] == wrong[:20]
    assert "payment.db-wal" in disk.dropped
    if TIER == "prove":  # a few cuts may all have missed the moment of a checkpoint
        assert "payment.db" in disk.dropped
        assert disk.torn
    assert disk.lost_names
    assert CUTS == cuts.total()


@pytest.mark.timeout(240)
def test_a_first_start_may_lose_its_power_at_any_event(
    recording: tuple[Path, list[Event]], tmp_path: Path
) -> None:
    """There is no database, or a whole one: the next start finds or makes it (rule 33)."""
    folder, happened = recording
    dice, disk = random.Random(SEED), Disk(folder)
    ready = [event.what for event in happened].index("renamed") + EVENTS_AFTER_MAKING
    found: Counter[bool] = Counter()
    struck = range(0, ready, STRIDE_OF_MAKING)
    for number, event in enumerate(happened[:ready]):
        if event.what != "sent":
            disk.play(event)
        for cut in range(CUTS_OF_MAKING if number in struck else 0):
            place = tmp_path / f"{number}-{cut}"
            put(place, disk.after_power_loss(dice, dice.choice(KEPT)))
            found[(place / "payment.db").exists()] += 1
            asyncio.run(open_store(place / "payment.db"))
            assert [] == broken(place / "payment.db", {})
            shutil.rmtree(place)
    assert {True, False} == set(found)
    assert len(struck) * CUTS_OF_MAKING == found.total()


@pytest.mark.kit("F7")
@pytest.mark.timeout(240)
async def test_after_a_power_loss_everything_comes_to_its_end(
    recording: tuple[Path, list[Event]], tmp_path: Path, strikes: Strikes
) -> None:
    """The stage starts on what was left: one charge stands for who completed, none for others."""
    folder, happened = recording
    dice = random.Random(SEED)
    cuts = instants(happened, dice, RECOVERIES)
    wrong: list[str] = []
    async with Bench(tmp_path).prepared() as bench:
        for cut in cuts:
            disk = Disk(folder)
            async with bench.neighbours():
                for event in happened[: cut + 1]:
                    if event.what == "sent":
                        land(bench, message_of(event))
                    else:
                        disk.play(event)
                put(tmp_path, disk.after_power_loss(dice, dice.choice(KEPT)))
                await bench.stage.start()
                await at_rest(bench.database)
                wrong += [f"cut {cut}: {what}" for what in disagreements(bench)]
    strikes.report("recoveries", len(cuts), violations=len(wrong), seed=SEED)
    assert [] == wrong[:20]


def put(folder: Path, files: dict[str, bytes]) -> None:
    """Write what was found on the disk."""
    folder.mkdir(exist_ok=True)
    for path, content in files.items():
        (folder / Path(path).name).write_bytes(content)


def land(bench: Bench, request: Message) -> None:
    """Let a request that had left take effect: the neighbours kept their power."""
    if request.start.startswith("POST /charges") or request.start.startswith("POST /refunds"):
        bench.world.answer(request)
    elif request.start.startswith("POST /sagas"):
        bench.tail.answer(request)


async def at_rest(database: Path) -> None:
    """Return when nothing is left to do."""
    async with asyncio.timeout(REST_SECONDS_MAX):
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as books:
            while books.execute(DUE).fetchone()[0]:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.05)


def disagreements(bench: Bench) -> list[str]:
    """Where the books of the stage and of its neighbours do not agree."""
    with closing(sqlite3.connect(f"file:{bench.database}?mode=ro", uri=True)) as books:
        states = dict(books.execute("SELECT id, state FROM saga"))
    with closing(sqlite3.connect(bench.folder / "world.db")) as books:
        charges = {row[0]: row[1:] for row in books.execute(CHARGES)}
    wrong = [f"{saga_id} is {state}" for saga_id, state in states.items() if state not in ENDED]
    for saga_id in {*states, *charges, *bench.tail.standing}:
        stands = states.get(saga_id) == "completed"
        made, standing, odd = charges.get(saga_id, (0, 0, 0))
        if made > 1 or odd or standing != stands or (saga_id in bench.tail.standing) != stands:
            wrong.append(f"{saga_id} is {states.get(saga_id)}: {made} charges, {standing} stand")
    return wrong


# --- the kit itself ------------------------------------------------------------------------------

FOLDER = Path("/d")
FILE = f"{FOLDER}/payment.db"


def played(*happened: Event) -> Disk:
    """A disk to which that has happened."""
    disk = Disk(FOLDER)
    for event in happened:
        disk.play(event)
    return disk


def found(disk: Disk, kept: float) -> dict[str, bytes]:
    """The files after a loss of power."""
    return disk.after_power_loss(random.Random(SEED), kept)


MADE = (Event("made", FILE), Event("wrote", FILE, b"aa"))
SYNCED = (Event("syncing", FILE), Event("synced", FILE))


def test_a_write_that_was_not_synced_may_be_gone() -> None:
    """A file, a write and a removal: each until its sync."""
    assert {} == found(played(*MADE), 0.0)
    written = played(*MADE, *SYNCED, Event("wrote", FILE, b"bb", 2))
    assert {FILE: b"aa"} == found(written, 0.0)
    assert {FILE: b"aabb"} == found(written, 1.0)
    removed = played(*MADE, *SYNCED, Event("removed", FILE))
    assert {FILE: b"aa"} == found(removed, 0.0)
    assert {} == found(removed, 1.0)
    removed.play(Event("synced", str(FOLDER)))
    assert {} == found(removed, 0.0)


def test_a_rename_is_whole_or_not_at_all() -> None:
    """Until the folder is synced the file has its old name or its new one, and all its content."""
    new = f"{FOLDER}/new.db"
    renamed = (*MADE, *SYNCED, Event("renamed", new, FILE.encode()))
    disk = played(*renamed)
    assert {FILE: b"aa"} == found(disk, 0.0)
    assert {new: b"aa"} == found(disk, 1.0)
    for synced in ((Event("synced", str(FOLDER)),), (Event("syncing", new), Event("synced", new))):
        assert {new: b"aa"} == found(played(*renamed, *synced), 0.0)


def test_a_sync_covers_what_was_written_before_it_began() -> None:
    """A write that comes while it is under way may be too late for it."""
    late = Event("wrote", FILE, b"bb", 2)
    assert {FILE: b"aa"} == found(played(*MADE, SYNCED[0], late, SYNCED[1]), 0.0)


def test_a_recording_is_read_thread_by_thread(tmp_path: Path) -> None:
    """A call that another thread interrupts in the listing ends where it is resumed."""

    def hexed(text: str) -> str:
        return "".join(f"\\x{byte:02x}" for byte in text.encode())

    trace = tmp_path / "trace.txt"
    file, other = f"7<{hexed(FILE)}>", f"9<{hexed('socket:[1]')}>"
    lines = [
        f'11 openat(AT_FDCWD<{hexed("/")}>, "{hexed(FILE)}", O_RDWR|O_CREAT, 0644) = {file}',
        f'11 pwrite64({file}, "{hexed("aa")}", 2, 4096) = 2',
        f"11 fdatasync({file} <unfinished ...>",
        f'12 write({other}, "{hexed("POST")}", 4) = 4',
        "11 <... fdatasync resumed>) = 0",
        f'11 pwrite64({file}, "{hexed("bb")}", 2, 0) = -1 ENOSPC (No space left on device)',
    ]
    trace.write_text("\n".join(lines) + "\n")
    seen = [(event.what, event.data, event.offset) for event in events(trace, FOLDER)]
    expected = [
        ("made", b"", 0),
        ("wrote", b"aa", 4096),
        ("syncing", b"", 0),
        ("sent", b"POST", 0),
        ("synced", b"", 0),
    ]
    assert expected == seen
