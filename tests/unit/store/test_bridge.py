"""The bridge to aiosqlite."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import aiosqlite
import pytest

from stage.store.sqlite.bridge import Bridge
from tests.waits import HANG_SECONDS


def test_the_private_method_we_use_exists() -> None:
    """aiosqlite still runs a function in its thread by `_execute(fn, *args)`."""
    assert callable(getattr(aiosqlite.Connection, "_execute", None))


async def test_a_whole_function_runs_in_the_thread_of_the_connection() -> None:
    """It gets the connection, its value comes back, and it is always the same other thread."""
    bridge = Bridge(lambda: sqlite3.connect(":memory:"))
    await bridge.open()

    def work(connection: sqlite3.Connection, number: int) -> tuple[int, int]:
        return connection.execute("SELECT ?", (number,)).fetchone()[0], threading.get_ident()

    first, second = await bridge.run(work, 7), await bridge.run(work, 7)
    await bridge.close()
    assert first == second
    assert first[0] == 7
    assert first[1] != threading.get_ident()


async def test_an_error_of_connecting_is_raised() -> None:
    """A connection that cannot be made leaves no thread behind."""

    def connect() -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    before = set(threading.enumerate())
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        await Bridge(connect).open()
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(HANG_SECONDS)
    assert not any(thread.is_alive() for thread in new)


class Slow:
    """A connection that takes until `enough` to be made, and the connections that were made."""

    def __init__(self) -> None:
        self.began, self.enough = threading.Event(), threading.Event()
        self.made: list[sqlite3.Connection] = []

    def connect(self) -> sqlite3.Connection:
        self.began.set()
        self.enough.wait(HANG_SECONDS)
        self.made.append(sqlite3.connect(":memory:", check_same_thread=False))
        return self.made[-1]


def is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


async def test_a_connection_that_is_being_made_is_closed_too() -> None:
    """As a reopening does with an inspection that has just begun."""
    slow = Slow()
    bridge = Bridge(slow.connect)
    opening = asyncio.ensure_future(bridge.open())
    await asyncio.to_thread(slow.began.wait, HANG_SECONDS)
    closing = asyncio.ensure_future(bridge.close())
    await asyncio.sleep(0)
    slow.enough.set()
    await asyncio.wait_for(closing, HANG_SECONDS)
    await opening
    assert [False] == [is_open(each) for each in slow.made]


async def test_a_wait_for_a_connection_that_is_cancelled_leaves_none_open() -> None:
    """The thread goes on connecting: what it makes is closed before the wait ends."""
    slow = Slow()
    opening = asyncio.ensure_future(Bridge(slow.connect).open())
    await asyncio.to_thread(slow.began.wait, HANG_SECONDS)
    opening.cancel()
    await asyncio.sleep(0)
    slow.enough.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert [False] == [is_open(each) for each in slow.made]
