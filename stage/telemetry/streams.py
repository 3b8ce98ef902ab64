"""The standard streams of a served process: nothing waits for the reader of a line.

A pipe whose reader hangs (a container runtime, a sidecar, `| less`) is full after some hundred
lines, and a write to it lasts until somebody reads. A stage that waits for that stands still. So
a line that is not taken at once is held, up to a limit, and written as soon as there is room. A
line in the place of those that were dropped says how many they are.

O_NONBLOCK belongs to an open file, which other processes share. A pipe or a terminal is therefore
opened once more, by its name in /proc, and a socket is written to with MSG_DONTWAIT. Where neither
is to be had, the kernel is asked before each write.
"""

from __future__ import annotations

import atexit
import io
import os
import select
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from threading import RLock, Thread
from typing import Any, BinaryIO, Final, NamedTuple, cast
from weakref import WeakSet

HELD_BYTES_MAX: Final = 1 << 20
"""Lines that are held for a reader; more are dropped."""
EXIT_SECONDS_MAX: Final = 1.0
"""How long the end of a process waits for a reader of the lines that are held."""
PAUSE_SECONDS: Final = 0.002
"""Behind an attempt to write that took nothing, although the kernel said that there is room."""
AT_ONCE_BYTES: Final = select.PIPE_BUF
"""A pipe that says so takes as much without a wait."""

Send = Callable[[bytes], int]
"""Writes as much as is taken at once, and returns how much. Raises BlockingIOError for nothing."""


class _Held(NamedTuple):
    """Lines that were not yet written, in one piece."""

    data: bytes
    lines: int
    """How many lines it has; of a marker, how many it stands for."""
    marker: bool = False
    begun: bool = False
    """Whether a part of it was written."""


class NonBlockingStream(io.RawIOBase):
    """A stream that takes each line at once, and writes, holds or drops it. Any thread may write.

    A line is dropped too where the file has an error: its disk is full, or its reader gone.
    """

    def __init__(self, descriptor: int) -> None:
        self.missing: Callable[[int], bytes] = _missing
        """Makes the line that stands for so many that were dropped."""
        self._descriptor = descriptor
        self._send, self._close = _sender(descriptor)
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._dropped = 0
        """Lines since the last that was taken, which a marker will stand for."""
        self._cut = False
        """Whether one of them was written in part."""
        self._writing = False
        """True while this thread writes: the garbage collector may log in the midst of it."""
        self._pumping = False
        self._ending = False
        self._free = True
        """True while nothing is held, dropped or being written: a line is sent at once then."""
        _guard_forks()
        _streams.add(self)

    def write(self, data: Any, /) -> int:
        """Write it, or hold or drop it. It is one line, or several."""
        with _lock:
            if not self._free:
                self._hold(bytes(data))
            elif self._sent(data):  # as nearly all are
                return len(data)
            if not (self._writing or self._pumping) and not self._drain():
                self._pump()
        return len(data)

    def finish(self, until: float) -> None:
        """Write what is held, until that instant of the monotonic clock. Only the end calls it."""
        self._ending = True
        while not self._drained() and (left := until - time.monotonic()) > 0:
            _wait_for_room(self._descriptor, left)
            time.sleep(min(PAUSE_SECONDS, left))

    def forget(self) -> None:
        """Hold nothing. In a forked process the lines are its parent's, and so is the thread."""
        self._held.clear()
        self._held_bytes = self._dropped = 0
        self._cut = self._writing = self._pumping = False
        self._free = True

    def writable(self) -> bool:
        """It is."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal shows it."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """The descriptor of the stream, which blocks."""
        return self._descriptor

    def close(self) -> None:
        """Write no more. The descriptor that was given stays open."""
        with _lock:  # so that no thread writes to what may be another file's by then
            if not self.closed:
                self.forget()
                super().close()
                self._close()
                self._send, self._close = _closed, _nothing

    # --- under the lock -----------------------------------------------------------------------

    def _sent(self, data: Any) -> bool:
        """Send it by itself; whether that was all. The rest is held."""
        self._free, self._writing, taken = False, True, 0
        try:
            taken = self._send(data)
        except (OSError, ValueError):
            pass  # it is tried once more, as any that is held
        finally:
            self._writing = False
        if taken == len(data):
            self._free = not self._held  # the garbage collector may have logged meanwhile
            return self._free
        rest = bytes(data[taken:])
        self._held.appendleft(_Held(rest, rest.count(b"\n") or 1, begun=taken > 0))
        self._held_bytes += len(rest)
        return False

    def _hold(self, text: bytes) -> None:
        held = _Held(text, text.count(b"\n") or 1)
        if self._held and self._held_bytes + len(text) > HELD_BYTES_MAX:
            self._drop(held)
            return
        if self._dropped:
            self._put(self._marker())
        self._put(held)

    def _put(self, held: _Held) -> None:
        self._held.append(held)
        self._held_bytes += len(held.data)

    def _marker(self) -> _Held:
        lines, cut = self._dropped, self._cut
        self._dropped, self._cut = 0, False
        return _Held(b"\n" * cut + self.missing(lines), lines, marker=True)

    def _drop(self, held: _Held) -> None:
        self._dropped += held.lines
        self._cut = self._cut or held.begun or held.data.startswith(b"\n")
        if not held.marker:  # those that it stands for are counted
            _report(held.lines)

    def _drain(self) -> bool:
        """Write what is held, as far as it is taken now; whether nothing is left.

        A marker alone is written only behind something that was taken: a full disk would refuse it
        again and again.
        """
        self._writing, taken = True, 0
        try:
            while self._held or (self._dropped and taken):
                if not self._held:
                    self._put(self._marker())
                first = self._held[0]
                try:
                    taken = self._send(first.data)
                except BlockingIOError:
                    return False
                except (OSError, ValueError):
                    taken = 0
                    self._written(first, len(first.data))
                    self._drop(first)
                else:
                    self._written(first, taken)
            self._free = not self._dropped
            return True
        finally:
            self._writing = False

    def _written(self, first: _Held, taken: int) -> None:
        self._held_bytes -= taken
        if taken == len(first.data):
            self._held.popleft()
        else:
            self._held[0] = first._replace(data=first.data[taken:], begun=True)

    def _pump(self) -> None:
        """Let a thread write what is held."""
        if self._ending:
            return
        self._pumping = True
        try:
            Thread(target=self._write_on, name="stage-log", daemon=True).start()
        except RuntimeError:  # no more threads are to be had: the next line tries again
            self._pumping = False

    # ------------------------------------------------------------------------------------------

    def _write_on(self) -> None:
        """In a thread of its own, until nothing is held any more."""
        more = True
        try:
            while more:
                _wait_for_room(self._descriptor, None)
                with _lock:
                    before = self._held_bytes
                    more = self._pumping = not (self._ending or self._drain())
                    in_vain = more and self._held_bytes == before
                if in_vain:
                    time.sleep(PAUSE_SECONDS)
        except BaseException:
            self._pumping = False  # the next line begins anew
            raise

    def _drained(self) -> bool:
        with _lock:
            return self._drain()


def _missing(lines: int) -> bytes:
    return f"stage: {lines} lines are missing here, which nobody took\n".encode()


def _sender(descriptor: int) -> tuple[Send, Callable[[], None]]:
    """The function that writes to it without a wait, and the one that ends its use.

    A file on a disk waits for no reader, so it is written to as it is.
    """
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode) or os.isatty(descriptor)):
        return partial(os.write, descriptor), _nothing
    with suppress(OSError):
        if stat.S_ISSOCK(mode):
            opened = socket.socket(fileno=os.dup(descriptor))
            return partial(_send_to, opened), opened.close
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        number = os.open(f"/proc/self/fd/{descriptor}", flags)
        return partial(os.write, number), partial(os.close, number)
    return partial(_send_polled, descriptor), _nothing


def _send_to(opened: socket.socket, data: bytes) -> int:
    return opened.send(data, socket.MSG_DONTWAIT)


def _send_polled(descriptor: int, data: bytes) -> int:
    """For a file that another user opened, or where there is no /proc.

    A process that shares it may take the last room in between: this one then waits.
    """
    if not _wait_for_room(descriptor, 0.0):
        raise BlockingIOError
    return os.write(descriptor, data[:AT_ONCE_BYTES])


def _wait_for_room(descriptor: int, seconds: float | None) -> bool:
    """Wait until it takes something, or has an error to say; whether it does."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLOUT)
    return bool(waiting.poll(None if seconds is None else seconds * 1000))


def _closed(_data: bytes) -> int:
    raise ValueError("the stream is closed")


def _nothing() -> None:
    """Nothing of it is ours to close."""


# --- the streams of this process -----------------------------------------------------------------

_lock: Final = RLock()
"""For all streams, so that a fork can take it."""
_streams: WeakSet[NonBlockingStream] = WeakSet()
_reports: list[Callable[[int], None]] = []


def open_streams() -> None:
    """Make stdout and stderr streams that wait for nobody; for our own entry point only."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or isinstance(stream.buffer, NonBlockingStream):
            continue
        with suppress(OSError, ValueError):  # one that is no file of the system stays
            opened = NonBlockingStream(stream.fileno())
            buffer = cast(BinaryIO, opened)
            made = io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, made)
            stream.flush()
    atexit.unregister(finish_streams)
    atexit.register(finish_streams)


def finish_streams(seconds: float = EXIT_SECONDS_MAX) -> None:
    """Write what is held, for so long at most. The process ends then."""
    until = time.monotonic() + seconds
    for stream in list(_streams):
        stream.finish(until)


def report_dropped(report: Callable[[int], None]) -> None:
    """From now on, `report` is notified of each line that is dropped, in the thread of the line."""
    _reports[:] = [report]


def _report(lines: int) -> None:
    for report in _reports:
        report(lines)


def _forked() -> None:
    for stream in list(_streams):
        stream.forget()
    _lock.release()


@cache
def _guard_forks() -> None:
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)
