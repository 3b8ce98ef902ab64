"""Since when an answer waits for its reader: far away is not the same as reading nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stage.inbound import aiohttp_connection
from stage.inbound.aiohttp_connection import READ_SECONDS, BoundedProtocol


class Connection:
    """A connection whose kernel holds bytes that nobody has acknowledged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.buffered = 0
        self.asked = 0
        self.waits: float | None = None
        self.held = False
        self.queued = True
        self._unread: float | None = None
        self._read_since: float | None = None
        monkeypatch.setattr(aiohttp_connection, "queued", self._in_kernel)

    def _in_kernel(self, *_: object) -> bool:
        self.asked += 1
        return self.queued

    def unread_since(self, now: float) -> float | None:
        """The instant that the sweep notes at that time."""
        own = SimpleNamespace(
            _unread_since=self._unread,
            _read_since=self._read_since,
            _held=self.held,
            _server=SimpleNamespace(waits_since=lambda _: self.waits),
        )
        transport = SimpleNamespace(get_write_buffer_size=lambda: self.buffered)
        self._unread = BoundedProtocol._is_unread_since(
            cast(BoundedProtocol, own), cast(Any, transport), now
        )
        self._read_since = own._read_since
        return self._unread


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    """One that has been answered."""
    return Connection(monkeypatch)


def test_a_client_that_goes_on_to_ask_has_read(connection: Connection) -> None:
    """Its last answer is always on its way, for as long as it takes to get there and back."""
    for second in range(100, 130):
        connection.waits = second - 0.5
        assert connection.unread_since(second) is None


def test_an_answer_that_nobody_reads_is_unread_since_its_end(connection: Connection) -> None:
    """However late it is looked at for the first time."""
    connection.waits = 100.0
    assert connection.unread_since(101.0) is None
    assert 100.0 == connection.unread_since(100.0 + READ_SECONDS)
    assert 100.0 == connection.unread_since(109.0)


def test_an_answer_that_was_read_is_looked_at_once(connection: Connection) -> None:
    """Thousands of idle connections cost nothing."""
    connection.waits, connection.queued = 100.0, False
    for second in range(101, 120):
        assert connection.unread_since(float(second)) is None
    assert 1 == connection.asked


def test_bytes_that_stay_in_the_process_are_unread_though_more_is_asked(
    connection: Connection,
) -> None:
    """A client that only asks fills the kernel's buffer, and then ours."""
    connection.buffered = 10
    for second in range(100, 110):
        connection.waits = second - 0.5
        assert 100.0 == connection.unread_since(float(second))
