"""The life of a process that serves a stage: when it hears a signal, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from stage.bootstrap import process
from stage.config import Config, local_socket
from stage.demo.payment import payment
from stage.store.sqlite.store import SqliteStore

pytestmark = pytest.mark.blocking

NOBODY = "http://127.0.0.1:9"
"""The port of discard, where nobody listens."""


class Guard:
    """In place of the thread that would end the process of the tests."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def start(self) -> None:
        """See `ExitGuard`."""


class Broken(Exception):
    """A step that failed."""


async def test_a_signal_is_heard_from_the_first_await_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be lost in a container, and the process killed when its time to stop is over.

    The certificates are read first, and a volume may be slow.
    """
    heard: list[Any] = []

    class Tls:
        async def open(self) -> None:
            heard.extend(signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT))
            raise Broken

    monkeypatch.setattr(process, "listener_tls", lambda _: Tls())
    with pytest.raises(Broken):
        await process._serve(payment, Config(auth="none"), None, None)
    assert not {signal.SIG_DFL, signal.default_int_handler}.intersection(heard)


async def test_a_socket_that_cannot_be_removed_keeps_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder may be read-only by now. The stage drains, and lets go of the database."""
    database = tmp_path / "stage.db"
    config = Config(
        auth="none",
        database=f"sqlite:///{database}",
        externals={"psp": NOBODY},
        port=0,
        drain_delay_seconds=0.0,
    )

    def announce(*_: Any) -> None:
        path = local_socket(config.database)
        assert path is not None and path.is_socket()
        path.unlink()
        path.mkdir()  # which `unlink` does not remove
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(process, "ExitGuard", Guard)
    monkeypatch.setattr(process, "_collect_rarely", lambda: None)
    monkeypatch.setattr(process, "announce", announce)
    async with asyncio.timeout(30.0):
        await process._serve(payment, config, None, None)
    assert payment.migrations is not None
    store = SqliteStore(database, migrations=[payment.migrations])  # which waits for nobody
    await store.open(upgrade=False)
    await store.close()
