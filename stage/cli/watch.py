"""Runs a command in a process of its own, and anew after each change of a file, until a signal."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from stage.cli.failure import INTERRUPTED, Failure

WATCHED: Final = frozenset({".py", ".sql", ".toml"})
LEFT_OUT: Final = frozenset({"__pycache__", "node_modules", "venv"})
LOOK_SECONDS: Final = 0.5
STOP_SECONDS_MAX: Final = 5.0


class Signals:
    """SIGINT and SIGTERM: the first ends the command in order, the second at once.

    They are heard also where the shell has them ignored, as in the background of a script.
    No task is cancelled for them: so none can come between a process and the note of its number.
    """

    def __init__(self) -> None:
        self.heard = asyncio.Event()
        self.hurried = asyncio.Event()
        self.status = 0

    def listen(self) -> None:
        """Hear them from now on, until the event loop is closed."""
        loop = asyncio.get_running_loop()
        for number, status in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 0)):
            loop.add_signal_handler(number, self.hear, status)

    def hear(self, status: int) -> None:
        """Take one signal; the first says the exit status."""
        if self.heard.is_set():
            self.hurried.set()
        else:
            self.status = status
            self.heard.set()


async def _nothing() -> None:
    """Nothing is done beside the command."""


async def run_anew(
    command: Sequence[str],
    signals: Signals,
    hint: str,
    beside: Callable[[], Awaitable[None]] = _nothing,
) -> int:
    """Run it until a signal, anew after each change below the working directory; the exit status.

    `beside` is awaited beside each of its processes, and cancelled when that is stopped.

    A process that ends before the first change ends all of it with its own status. After a later
    end the change that mends it is waited for, and `hint` is said. Raises Failure for one that was
    killed.
    """
    seen = await asyncio.to_thread(_stamps)
    changed = False
    while not signals.heard.is_set():
        process = await asyncio.create_subprocess_exec(*command)
        looking = asyncio.ensure_future(beside())
        try:
            now = await _next_change(process, seen, signals, hint if changed else None)
            if now is None and not signals.heard.is_set():
                return _status_of(process)
        finally:
            looking.cancel()
            await _stop(process, signals)
            with suppress(asyncio.CancelledError):
                await looking
        if now is not None:
            different = sorted(str(path) for path, _ in seen.items() ^ now.items())
            click.echo(f"{different[0]} has changed: started anew")
            seen, changed = now, True
    return signals.status


async def _next_change(
    process: Process, seen: dict[Path, int], signals: Signals, hint: str | None
) -> dict[Path, int] | None:
    """The files as they are after a change; None after a signal, or an end that no change mends."""
    said = False
    while not await _within(LOOK_SECONDS, signals.heard):  # files tell nobody that they change
        now = await asyncio.to_thread(_stamps)
        if now != seen:
            return now
        if process.returncode is not None and not said:
            if hint is None:
                return None
            click.echo(f"ended with status {process.returncode}: mend it, {hint}")
            said = True
    return None


def _status_of(process: Process) -> int:
    status = process.returncode or 0
    if status < 0:
        raise Failure(f"the process was ended by signal {-status}: start it again")
    return status


async def _stop(process: Process, signals: Signals) -> None:
    """SIGTERM, then SIGKILL; nothing for one that has ended."""
    if process.returncode is not None:
        return
    process.terminate()
    ended, hurried = (
        asyncio.ensure_future(each) for each in (process.wait(), signals.hurried.wait())
    )
    await asyncio.wait(
        (ended, hurried), timeout=STOP_SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED
    )
    hurried.cancel()
    if process.returncode is None:
        process.kill()
    await ended


async def _within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _stamps() -> dict[Path, int]:
    """When each watched file below the working directory was changed last."""
    stamps = {}
    for path in _files(Path()):
        try:
            stamps[path] = path.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # it went away just now
    return stamps


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        hidden = path.name.startswith(".") or path.name in LEFT_OUT
        if path.is_dir() and not hidden and not path.is_symlink():
            yield from _files(path)
        elif path.suffix in WATCHED:
            yield path
