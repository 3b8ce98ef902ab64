"""Rule 33 on a file: whose it is, and what is put in its place at a start or under a run."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError, StoreUnavailable
from stage.store.sqlite.identity import DatabaseFile, Mark, parse_mark
from stage.store.sqlite.store import SqliteStore
from stage.store.sqlite.watch import LOOK_SECONDS
from tests.unit.store.conftest import Faulty
from tests.unit.store.given import inserting, until

NOTICED_SECONDS = 1.0
"""A file that was swapped is noticed within that time."""


def named(path: Path, **more: object) -> SqliteStore:
    """The store of stage payment on that file."""
    return SqliteStore(DatabaseFile(path=path, stage="payment", release="1.0", **more))  # type: ignore[arg-type]


async def filled(path: Path, *ids: str) -> None:
    """A closed database with these sagas."""
    store = named(path)
    await store.open()
    for saga_id in ids:
        await store.transact(inserting(saga_id))
    await store.close()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store with one saga."""
    store = named(tmp_path / "stage.db")
    await store.open()
    await store.transact(inserting("a"))
    try:
        yield store
    finally:
        await store.close()


async def test_a_new_file_gets_an_identity_that_stays(tmp_path: Path) -> None:
    """Made at the first start, the same at the second; the release is that which wrote last."""
    path = tmp_path / "stage.db"
    first = named(path)
    await first.open()
    await first.close()
    second = SqliteStore(DatabaseFile(path=path, stage="payment", release="1.1"))
    await second.open()
    await second.close()
    assert (True, False) == (first.made, second.made)
    assert ("payment", 1) == (first.identity.stage, first.identity.generation)
    assert first.identity.id == second.identity.id
    assert first.identity.born_at == second.identity.born_at > 1.7e9
    assert "1.1" == second.identity.release


async def test_a_database_older_than_its_identity_is_adopted(tmp_path: Path) -> None:
    """It was born when its first migration was applied."""
    path = tmp_path / "stage.db"
    await filled(path, "a")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM stage_identity")
        connection.execute("UPDATE stage_migration SET applied_at = 1700000000.5")
        connection.commit()
    (tmp_path / "stage.db.lock").write_text("4711\n")
    store = named(path)
    await store.open()
    await store.close()
    assert 1700000000.5 == store.identity.born_at and not store.made


async def test_the_file_of_another_stage_is_refused(tmp_path: Path) -> None:
    """With both names and the fix; nothing is written to it."""
    path = tmp_path / "stage.db"
    await filled(path, "a")
    before = path.read_bytes()
    other = SqliteStore(DatabaseFile(path=path, stage="shipping"))
    with pytest.raises(ConfigurationError, match=r"'payment'.*'shipping'.*path of its own"):
        await other.open()
    assert before == path.read_bytes()


async def test_where_none_may_be_made_none_is(tmp_path: Path) -> None:
    """`must_exist`: refused, and the folder stays as it was."""
    with pytest.raises(ConfigurationError, match=r"no database .*stage db init"):
        await named(tmp_path / "stage.db", must_exist=True).open()
    assert [] == os.listdir(tmp_path)


async def test_an_empty_file_is_no_database(tmp_path: Path) -> None:
    """It is refused rather than filled."""
    (tmp_path / "stage.db").touch()
    with pytest.raises(ConfigurationError, match="empty file"):
        await named(tmp_path / "stage.db").open()
    assert 0 == (tmp_path / "stage.db").stat().st_size


async def test_a_file_without_a_table_is_no_database(tmp_path: Path) -> None:
    """A stage that was stopped while it made one leaves none."""
    path = tmp_path / "stage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"holds no table.*stage db init"):
        await named(path).open()
    assert before == path.read_bytes() != b""


async def test_a_database_of_somebody_else_is_refused(tmp_path: Path) -> None:
    """A file with tables, and none of ours."""
    path = tmp_path / "stage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customer (id TEXT)")
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match="not the database of a stage"):
        await named(path).open()
    assert before == path.read_bytes()


async def test_a_removed_database_is_not_made_anew(tmp_path: Path) -> None:
    """The lock file remembers that there was one."""
    path = tmp_path / "stage.db"
    await filled(path, "a", "b")
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"was removed: 2 batches .*Put it back"):
        await named(path).open()
    assert not path.exists()


async def test_an_older_copy_is_refused_at_start(tmp_path: Path) -> None:
    """A backup that was put back, without a word, says how much is missing."""
    path, copy = tmp_path / "stage.db", tmp_path / "copy.db"
    await filled(path, "a")
    shutil.copy(path, copy)
    await filled(path, "b", "c")
    shutil.copy(copy, path)
    with pytest.raises(ConfigurationError, match=r"older copy.*2 batches.*db restored"):
        await named(path).open()


async def test_another_database_is_refused_at_start(tmp_path: Path) -> None:
    """One of the same stage, from elsewhere."""
    await filled(tmp_path / "stage.db", "a")
    await filled(tmp_path / "other.db", *"abcdef")
    shutil.copy(tmp_path / "other.db", tmp_path / "stage.db")
    with pytest.raises(ConfigurationError, match="not the database that was served"):
        await named(tmp_path / "stage.db").open()


async def unavailable(store: SqliteStore) -> str:
    """Why the store is away, found without any unit of ours, within the promised time."""
    assert LOOK_SECONDS < NOTICED_SECONDS
    await until(lambda: not store.available)
    return store.trouble


FILES = ("stage.db", "stage.db-wal", "stage.db-shm")


async def swapped(folder: Path, running: SqliteStore, swap: str) -> bytes:
    """Put the files aside and something else in their place; the bytes that stand there now."""
    path, foreign = folder / "stage.db", folder / "foreign.db"
    if swap == "other":
        await filled(foreign, "x", "y", "z")
    elif swap == "older":
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(foreign)) as copy:
            source.backup(copy)
        await running.transact(inserting("b"))
    elif swap == "emptied":
        foreign.touch()
    (folder / "aside").mkdir()
    for name in FILES:
        os.rename(folder / name, folder / "aside" / name)
    if swap != "removed":
        shutil.copy(foreign, path)
    return path.read_bytes() if path.exists() else b""


@pytest.mark.parametrize("swap", ["other", "older", "removed", "emptied"])
async def test_a_file_swapped_under_a_run_is_noticed_and_not_written_to(
    tmp_path: Path, running: SqliteStore, swap: str
) -> None:
    """Within a second and without a request: not available, the reason said, nothing written.

    When the right file is back, it goes on.
    """
    path, aside = tmp_path / "stage.db", tmp_path / "aside"
    before = await swapped(tmp_path, running, swap)

    trouble = await unavailable(running)
    words = {
        "other": "another database stands",
        "older": "an older copy",
        "removed": "unable to open",
        "emptied": "another database stands",
    }
    with pytest.raises(StoreUnavailable):
        await running.transact(inserting("lost"))
    assert trouble
    await until(lambda: words[swap] in running.trouble)
    assert before == (path.read_bytes() if path.exists() else b"")

    for name in FILES:
        if (aside / name).exists():
            os.replace(aside / name, tmp_path / name)
    await until(lambda: running.available)
    assert "" == running.trouble
    assert "after" == await running.transact(inserting("after"))
    assert await running.get("lost") is None


async def test_an_older_copy_written_into_the_open_file_is_noticed(
    tmp_path: Path, running: SqliteStore
) -> None:
    """`.restore` keeps the inode: the data version changes, and the numbers went back."""
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(tmp_path / "stage.db")) as source:
        with closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        await running.transact(inserting("b"))
        with closing(sqlite3.connect(copy)) as kept:
            kept.backup(source)
    assert "older copy" in await unavailable(running) or "older copy" in running.trouble
    with pytest.raises(StoreUnavailable, match="older copy"):
        await running.transact(inserting("c"))


def backup(path: Path, copy: Path) -> None:
    """As `stage db backup` copies it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


def emptied_log(path: Path) -> None:
    """Let all of the log stand in the file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def copied_over(copy: Path, path: Path) -> None:
    """By another process, as a person does."""
    process = await asyncio.create_subprocess_exec("cp", str(copy), str(path))
    assert 0 == await process.wait()


async def written_for_ever(store: SqliteStore) -> None:
    for number in count():
        await store.transact(inserting(f"c-{number}"))


@pytest.mark.parametrize("copied, meanwhile", [("backup", 1), ("backup", 300), ("file", 300)])
async def test_a_copy_written_over_the_open_file_is_noticed_and_mixed_with_nothing(
    tmp_path: Path, running: SqliteStore, copied: str, meanwhile: int
) -> None:
    """`cp backup.db stage.db` keeps the inode, and SQLite does not notice.

    Nothing is read or written any more, the copy stays as it is, and the next start says the rest.
    """
    path, copy = tmp_path / "stage.db", tmp_path / "copy.db"
    if copied == "backup":
        backup(path, copy)
    else:
        emptied_log(path)
        shutil.copyfile(path, copy)
    for number in range(meanwhile):
        await running.transact(inserting(f"b-{number}"))
    emptied_log(path)
    await asyncio.sleep(2 * LOOK_SECONDS)
    assert running.available
    await running.transact(inserting("last"))
    await copied_over(copy, path)

    await unavailable(running)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"has written a copy.*stage\.db-wal"):
            await running.transact(inserting("lost"))
        with pytest.raises(StoreUnavailable, match="has written a copy"):
            await running.seen(["lost"])
    await until(lambda: "has written a copy" in running.trouble)
    await running.close()
    assert copy.read_bytes() == path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"Move stage\.db-wal.*db restored"):
        await named(path).open()


async def test_a_copy_written_over_a_file_under_load_is_noticed(
    tmp_path: Path, running: SqliteStore
) -> None:
    """SQLite writes into it at the same time."""
    path, copy = tmp_path / "stage.db", tmp_path / "copy.db"
    backup(path, copy)
    for number in range(300):
        await running.transact(inserting(f"b-{number}"))
    emptied_log(path)
    await asyncio.sleep(2 * LOOK_SECONDS)
    copying = asyncio.create_task(copied_over(copy, path))
    with pytest.raises(StoreUnavailable):
        await written_for_ever(running)
    await copying
    await until(lambda: not running.available)


@pytest.mark.parametrize("whose", ["ours", "of another program"])
async def test_a_vacuum_makes_the_file_smaller_and_is_no_harm(
    tmp_path: Path, running: SqliteStore, whose: str
) -> None:
    """Its end is cut, as by a copy; its schema gets another number."""
    path = tmp_path / "stage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE filler AS SELECT zeroblob(4000000) AS bytes")
        connection.commit()
    emptied_log(path)
    await running.transact(inserting("b"))
    await asyncio.sleep(2 * LOOK_SECONDS)
    before = path.stat().st_size
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM filler")
        connection.commit()
        if whose != "ours":
            connection.execute("VACUUM")
    if whose == "ours":
        await running.scrub()
    emptied_log(path)
    assert path.stat().st_size < before - 3_000_000
    for number in range(2):
        await running.transact(inserting(f"c-{number}"))
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert running.available, running.trouble


async def test_another_writer_is_no_harm(tmp_path: Path, running: SqliteStore) -> None:
    """An author's tool that writes to its own tables does not stop the stage."""
    with closing(sqlite3.connect(tmp_path / "stage.db")) as connection:
        connection.execute("CREATE TABLE note (text TEXT)")
        connection.commit()
    await running.transact(inserting("b"))
    await asyncio.sleep(2 * LOOK_SECONDS)
    assert running.available


def test_a_mark_is_read_as_it_was_written() -> None:
    """Also beside the pid, and nothing is read from the lock file of an older release."""
    mark = Mark(id="0a" * 16, generation=3, number=12345)
    assert mark == parse_mark(f"0000004711\n{mark.line()}\n")
    assert parse_mark("4711\n") is None


async def test_a_file_that_cannot_be_written_to_at_start_recovers(
    tmp_path: Path, faulty: type[Faulty]
) -> None:
    """It is opened and not available; it is written to as soon as it can be."""
    path = tmp_path / "stage.db"
    await filled(path, "a")
    faulty.refuse = True
    store = SqliteStore(DatabaseFile(path=path, stage="payment"), factory=faulty)
    await store.open()
    try:
        with pytest.raises(StoreUnavailable):
            await store.transact(inserting("b"))
        assert not store.available and "full" in store.trouble
        assert faulty.struck
        faulty.refuse = False
        await until(lambda: store.available)
        assert "c" == await store.transact(inserting("c"))
    finally:
        await store.close()
