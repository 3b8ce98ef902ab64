"""The rooms of a stage are opened in order; at an error or a stop, those that are open close."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stage.bootstrap import wiring
from stage.bootstrap.wiring import Served, WiredStage, wire
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment

pytestmark = pytest.mark.blocking

NOBODY = "http://127.0.0.1:9"
"""The port of discard, where nobody listens."""
ROOMS = ("store", "page", "code", "transport", "engine")
"""In the order in which they are opened; each is closed before those in front of it."""
STEPS = ("credentials", *ROOMS, "newer", "misfits", "tasks")
"""All that a start awaits, or does, and that may fail."""
NOT_AWAITED = ("page", "code", "tasks")


class Broken(Exception):
    """A step that failed."""


class Rooms:
    """The rooms of one stage, which note how they are opened and closed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = Config(
            auth="none", database=f"sqlite:///{folder}/stage.db", externals={"psp": NOBODY}
        )
        self.wired: WiredStage = wire(payment, config)
        self.open: list[str] = []
        """The rooms that are open."""
        self.closed: list[str] = []
        self.reached = asyncio.Event()
        """Set when the step is reached at which it stops."""
        self._patch = monkeypatch.setattr
        wired = self.wired
        self._openings: dict[str, tuple[Any, str]] = {
            "credentials": (wired._credentials, "open"),
            "store": (wired._store, "open"),
            "page": (wired._watch._page, "open"),
            "code": (wired._watch.code, "start"),
            "transport": (wired._transport, "open"),
            "engine": (wired._engine, "start"),
            "newer": (wiring, "log_newer"),
            "misfits": (wiring, "log_misfits"),
            "tasks": (wiring, "working"),
        }
        self._closings: dict[str, tuple[Any, str]] = {
            "store": (wired._store, "close"),
            "page": (wired._watch._page, "close"),
            "code": (wired._watch.code, "stop"),
            "transport": (wired._transport, "close"),
            "engine": (wired._engine, "drain"),
        }
        for name in ROOMS:
            self._note(name)

    def _note(self, name: str) -> None:
        room, opening = self._openings[name]
        _, closing = self._closings[name]
        opens, closes = getattr(room, opening), getattr(room, closing)

        def opened(*given: Any) -> Any:
            self.open.append(name)
            return opens(*given)

        def close(*given: Any) -> Any:
            if name in self.open:
                self.open.remove(name)
                self.closed.append(name)
            return closes(*given)

        self._patch(room, opening, opened)
        self._patch(room, closing, close)

    def fails(self, name: str, *, closing: bool = False) -> None:
        """Let that step fail, or the closing of that room, which is closed all the same."""
        room, method = (self._closings if closing else self._openings)[name]
        before = getattr(room, method)

        def failing(*given: Any) -> Any:
            if not closing or name not in self.open:
                raise Broken(name)
            return self._closing_badly(before, given)

        self._patch(room, method, failing)

    async def _closing_badly(self, close: Callable[..., Any], given: tuple[Any, ...]) -> None:
        await close(*given)
        raise Broken

    def stops(self, name: str) -> None:
        """Let that step never end."""
        room, method = self._openings[name]

        async def waiting(*_: Any) -> None:
            self.reached.set()
            await asyncio.Event().wait()

        self._patch(room, method, waiting)

    async def serve(self) -> None:
        """Open them, and close them at once."""
        async with self.wired.opened():
            assert list(ROOMS) == self.open


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rooms:
    return Rooms(tmp_path, monkeypatch)


async def test_rooms_are_closed_in_reverse_order(rooms: Rooms) -> None:
    """The engine comes to rest while it can still write and send, the database goes last."""
    await rooms.serve()
    assert [] == rooms.open
    assert list(reversed(ROOMS)) == rooms.closed


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_of_a_start_that_fails_leaves_nothing_open(rooms: Rooms, step: str) -> None:
    """And the error is that of the step."""
    rooms.fails(step)
    with pytest.raises(Broken, match=step):
        await rooms.serve()
    assert [] == rooms.open


@pytest.mark.parametrize("step", [each for each in STEPS if each not in NOT_AWAITED])
async def test_a_start_that_is_stopped_at_a_step_leaves_nothing_open(
    rooms: Rooms, step: str
) -> None:
    """As by a server of another kind, which cancels the start at SIGTERM."""
    rooms.stops(step)
    serving = asyncio.ensure_future(rooms.serve())
    await rooms.reached.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert [] == rooms.open


@pytest.mark.parametrize("name", ["store", "transport", "engine"])
async def test_a_room_that_cannot_be_closed_keeps_no_other_open(rooms: Rooms, name: str) -> None:
    """The database is let go of, whatever the engine says."""
    rooms.fails(name, closing=True)
    with pytest.raises(Broken):
        await rooms.serve()
    assert [] == rooms.open


def test_a_port_that_another_server_would_not_open_is_refused(tmp_path: Path) -> None:
    """With `admin_port` alone the one port of that server would go on to serve all, in silence."""
    config = Config(
        auth="none",
        database=f"sqlite:///{tmp_path}/stage.db",
        externals={"psp": NOBODY},
        admin_port=9080,
    )
    with pytest.raises(ConfigurationError, match=r"admin_port is set, and `stage serve` alone"):
        wire(payment, config)
    wire(payment, config, served=Served(listens=True))
