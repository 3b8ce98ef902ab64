"""Standard streams that wait for no reader: lines are taken at once, and written, held or dropped.

Each test fills its stream first. A write that waits ends it by its deadline.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import Event, Thread
from typing import Any, BinaryIO, cast

import pytest

from stage.telemetry import logs, streams
from stage.telemetry.metrics import Metrics
from stage.telemetry.names import M_LINES_DROPPED
from stage.telemetry.streams import NonBlockingStream, finish_streams, report_dropped

pytestmark = pytest.mark.timeout(20)
F_SETPIPE_SZ = 1031
PIPE_BYTES = 4096
LIMIT_SECONDS = 10.0


class Reader:
    """The end of a stream that is read, once `read` is called."""

    def __init__(self, kind: str) -> None:
        if kind == "socket":
            ours, theirs = socket.socketpair()
            self.read_end, self.write_end = ours.detach(), theirs.detach()
        elif kind == "terminal":
            self.read_end, self.write_end = pty.openpty()
        else:
            self.read_end, self.write_end = os.pipe()
            fcntl.fcntl(self.write_end, F_SETPIPE_SZ, PIPE_BYTES)

    def read_until(self, end: bytes) -> bytes:
        """The bytes that come, up to that end."""
        found = b""
        while not found.endswith(end):
            read = os.read(self.read_end, 65_536)
            assert read, found[-200:]
            found = (found + read).replace(b"\r\n", b"\n")
        return found

    def close(self) -> None:
        for stream in list(streams._streams):
            if stream.fileno() == self.write_end:
                stream.close()
        for each in (self.read_end, self.write_end):
            with suppress(OSError):
                os.close(each)


@pytest.fixture(params=["pipe", "polled", "socket", "terminal"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """One of each kind; a pipe that another user opened cannot be opened anew."""
    if request.param == "polled":
        monkeypatch.setattr(streams, "_sender", polled)
    reader = Reader(request.param)
    yield reader
    reader.close()


@pytest.fixture
def pipe() -> Iterator[Reader]:
    reader = Reader("pipe")
    yield reader
    reader.close()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    report_dropped(Metrics().lines_dropped)


def polled(descriptor: int) -> Any:
    return partial(streams._send_polled, descriptor), streams._nothing


def numbered(first: int, last: int) -> bytes:
    return b"".join(line(number) for number in range(first, last))


def line(number: int) -> bytes:
    return b"line %06d %s\n" % (number, b"x" * 80)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_line_waits_for_no_reader_and_comes_whole_when_there_is_one(reader: Reader) -> None:
    """All of them, in their order, from a thread that ends with the last."""
    stream = NonBlockingStream(reader.write_end)
    for number in range(5_000):
        assert len(line(number)) == stream.write(line(number))
    assert numbered(0, 5_000) == reader.read_until(line(4_999))
    wait_until(lambda: not stream._pumping)
    stream.write(line(5_000))
    assert line(5_000) == reader.read_until(line(5_000))


def test_beyond_the_limit_lines_are_dropped_and_a_line_says_how_many(
    pipe: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their place: behind it come those that were taken again. The metric has the number."""
    monkeypatch.setattr(streams, "HELD_BYTES_MAX", 100 * len(line(0)))
    report_dropped((metrics := Metrics()).lines_dropped)
    stream = NonBlockingStream(pipe.write_end)
    stream.missing = lambda lines: b"missing %d\n" % lines
    for number in range(1_000):
        stream.write(line(number))
    dropped = metrics.counters[M_LINES_DROPPED][()]
    assert 800 < dropped < 1_000
    marker = b"missing %d\n" % dropped
    assert numbered(0, 1_000 - dropped) + marker == pipe.read_until(marker)
    stream.write(line(1_000))
    assert line(1_000) == pipe.read_until(line(1_000))
    assert dropped == metrics.counters[M_LINES_DROPPED][()]


def test_a_line_longer_than_the_limit_is_written_where_nothing_is_held(
    pipe: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe takes it in parts."""
    monkeypatch.setattr(streams, "HELD_BYTES_MAX", 10)
    stream = NonBlockingStream(pipe.write_end)
    text = b"y" * 3 * PIPE_BYTES + b"\n"
    stream.write(text)
    assert text == pipe.read_until(b"\n")


def test_lines_that_no_disk_took_are_counted_and_the_next_line_says_so() -> None:
    """Also where a line was cut: it ends before the one that stands for it."""
    report_dropped((metrics := Metrics()).lines_dropped)
    stream = NonBlockingStream(os.open(os.devnull, os.O_WRONLY))
    stream.missing = lambda lines: b"missing %d\n" % lines
    disk = Disk(room=7)
    stream._send = disk.write
    stream.write(b"one\n")
    stream.write(b"two two\nthree\n")
    stream.write(b"four\n")
    assert b"one\ntwo" == disk.taken
    disk.room = 1_000
    stream.write(b"five\n")
    assert b"one\ntwo\nmissing 3\nfive\n" == disk.taken
    assert 3 == metrics.counters[M_LINES_DROPPED][()]
    os.close(stream.fileno())


class Disk:
    """A file that has room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.taken = b""

    def write(self, data: bytes) -> int:
        if self.room == 0:
            raise OSError
        taken = data[: self.room]
        self.taken += taken
        self.room -= len(taken)
        return len(taken)


def test_a_reader_that_is_gone_stops_nothing(pipe: Reader) -> None:
    """Neither before nor while lines are held for it."""
    stream = NonBlockingStream(pipe.write_end)
    for number in range(200):
        stream.write(line(number))
    os.close(pipe.read_end)
    wait_until(lambda: not stream._held)
    stream.write(b"nobody\n")
    assert not stream._held
    NonBlockingStream(pipe.write_end).write(b"nobody\n")


def test_a_line_that_is_logged_while_a_line_is_written_comes_behind_it(pipe: Reader) -> None:
    """The garbage collector may run anywhere, and close what says so in the log."""
    stream = NonBlockingStream(pipe.write_end)
    send = stream._send

    def collected(data: bytes) -> int:
        stream._send = send
        stream.write(b"second\n")
        return send(data)

    stream._send = collected
    stream.write(b"first\n")
    assert b"first\nsecond\n" == pipe.read_until(b"second\n")


def test_a_forked_process_has_no_lines_of_its_parent(pipe: Reader) -> None:
    """And it can write, although a thread of its parent was writing."""
    stream = NonBlockingStream(pipe.write_end)
    for number in range(200):
        stream.write(line(number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for the thread that writes
        child = os.fork()
    if child == 0:
        stream.write(b"child\n")
        held = [each.data for each in stream._held]
        os._exit(0 if held == [b"child\n"] else 1)
    assert 0 == os.waitpid(child, 0)[1]
    assert numbered(0, 200) == pipe.read_until(line(199))


def test_the_end_waits_for_a_reader_and_not_for_ever(pipe: Reader) -> None:
    """A second at most, and for as little as it takes."""
    stream = NonBlockingStream(pipe.write_end)
    for number in range(500):
        stream.write(line(number))
    finish_streams(0.05)
    assert stream._held
    found: list[bytes] = []
    reading = Thread(target=lambda: found.append(pipe.read_until(line(499))))
    reading.start()
    finish_streams(LIMIT_SECONDS)
    assert not stream._held
    reading.join()
    assert [numbered(0, 500)] == found
    assert 1.0 == streams.EXIT_SECONDS_MAX


def test_several_threads_write_whole_lines(reader: Reader) -> None:
    """While the reader comes and goes."""
    stream, begin = NonBlockingStream(reader.write_end), Event()

    def write(thread: int) -> None:
        begin.wait()
        for number in range(thread * 1_000, (thread + 1) * 1_000):
            stream.write(line(number))

    threads = [Thread(target=write, args=(each,)) for each in range(3)]
    for each in threads:
        each.start()
    begin.set()
    for each in threads:
        each.join()
    stream.write(b"end\n")
    found = reader.read_until(b"end\n").splitlines(keepends=True)
    assert sorted(found[:-1]) == numbered(0, 3_000).splitlines(keepends=True)


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_log_says_in_its_own_form_how_many_lines_are_missing(
    pipe: Reader, form: logs.Format, monkeypatch: pytest.MonkeyPatch, apart: None
) -> None:
    """Lines of ours and of other libraries, and of `print`."""
    monkeypatch.setattr(streams, "HELD_BYTES_MAX", 10_000)
    stream = NonBlockingStream(pipe.write_end)
    out = io.TextIOWrapper(cast(BinaryIO, stream), encoding="utf-8", line_buffering=True)
    logs.configure(form, "info", out)
    log = logs.default_logger()
    for number in range(300):
        log.warning("database_away", number=number)
    print("of the author", file=out)
    text = pipe.read_until(b"of the author\n")
    *_, last, _ = text.splitlines()
    assert b"log_lines_dropped" in last
    if form == "json":
        found: dict[str, Any] = json.loads(last)
        assert ("log_lines_dropped", "warning") == (found["event"], found["level"])
        assert 100 < found["lines"] <= 300 and "timestamp" in found
    else:
        assert b"lines=" in last
    out.detach()


@pytest.fixture
def apart() -> Iterator[None]:
    """Undo what `configure` does to the root logger."""
    import logging

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_pipe_of_another_user_is_asked_before_each_write(
    pipe: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be opened once more. A file on a disk is not asked, and has no reader."""
    with monkeypatch.context() as context:
        context.setattr(os, "open", refused)
        send, _ = streams._sender(pipe.write_end)
    assert streams._send_polled is send.func  # type: ignore[attr-defined]
    with open(os.devnull, "wb") as file:
        send, _ = streams._sender(file.fileno())
    assert os.write is send.func  # type: ignore[attr-defined]


def refused(*_: object) -> int:
    raise PermissionError


def test_the_streams_of_a_process_are_replaced_once(
    pipe: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their encoding; a stream that is no file of the system stays."""
    text = io.TextIOWrapper(io.FileIO(os.dup(pipe.write_end), "w"), "latin-1", "replace")
    captured = io.StringIO()
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", captured)
    streams.open_streams()
    made = sys.stdout
    streams.open_streams()
    assert made is sys.stdout is not text and captured is sys.stderr
    assert ("latin-1", "replace") == (made.encoding, made.errors)
    print("é", 1)
    assert b"\xe9 1\n" == pipe.read_until(b"\n")
    text.close()
