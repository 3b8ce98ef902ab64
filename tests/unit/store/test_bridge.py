"""The bridge to aiosqlite."""

from __future__ import annotations

import sqlite3
import threading

import aiosqlite
import pytest

from stage.store.sqlite.bridge import Bridge


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
        thread.join(5)
    assert not any(thread.is_alive() for thread in new)
