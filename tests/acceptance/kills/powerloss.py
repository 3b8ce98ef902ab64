"""Power loss: what a stage wrote and synced is recorded with strace, and played back up to any cut.

At a cut every file holds what was synced, and any subset of what was written since: a write may be
gone, whole, or torn at a sector. The same holds for names: a file that was made or removed since
the last sync of its folder (or, for one that was made, of itself, as ext4 and xfs do it) may or
may not be there. One that was renamed has either its old name or its new one. Shared memory is
gone. docs/decisions/0010 says why it is done this way.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.acceptance.kills.http1 import Message

CALLS = "pwrite64,write,writev,ftruncate,fdatasync,fsync,openat,rename,unlink,sendto,sendmsg"
STRACE_OPTIONS = ("-y", "-xx", "-s", "70000", "-e", f"trace={CALLS}")
SECTOR_BYTES = 512
TORN = 0.2
"""The share of the kept writes of which only the first sectors are there."""

_CALL = re.compile(r"(\d+) +(\w+)\((.*)", re.DOTALL)
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"^-?\w+<((?:\\x[0-9a-f]{2})*)>")


class Event(NamedTuple):
    """One thing that happened: made, renamed, removed, wrote, cut, syncing, synced or sent."""

    what: str
    path: str
    data: bytes = b""
    """Bytes that were written or sent; the old name of a file that was renamed."""
    offset: int = 0
    thread: int = 0


class NotRecorded(Exception):
    """The recording holds something that this file cannot play back; the message is the line."""


def events(trace: Path, folder: Path) -> Iterator[Event]:
    """The writes to the files of a database in that folder, and the messages sent, as recorded."""
    syncing: dict[int, str] = {}
    with trace.open() as lines:
        for line in lines:
            if (resumed := _RESUMED.match(line)) is not None:
                thread = int(resumed.group(1))
                if thread in syncing:
                    yield Event("synced", syncing.pop(thread), thread=thread)
                continue
            if (call := _CALL.match(line)) is None or " = -1 E" in line[-80:]:
                continue
            thread, name, rest = int(call.group(1)), call.group(2), call.group(3)
            for event in _event(thread, name, rest, line):
                if event.what != "sent" and not _ours(event.path, folder):
                    continue
                yield event
                if event.what == "syncing":
                    if "unfinished" in rest[-20:]:
                        syncing[thread] = event.path
                    else:
                        yield event._replace(what="synced")


def _event(thread: int, name: str, rest: str, line: str) -> Iterator[Event]:
    descriptor = _DESCRIPTOR.match(rest)
    path = "" if descriptor is None else _bytes(descriptor.group(1)).decode(errors="replace")
    texts = [(_bytes(found.group(1)), found.group(2)) for found in _TEXT.finditer(rest)]
    if any(cut for _, cut in texts):
        raise NotRecorded(f"longer than was recorded: {line[:200]}")
    match name:
        case "sendto" | "sendmsg" | "write" | "writev" if path.startswith("socket:"):
            data = b"".join(data for data, _ in texts)
            if len(data) > 1:  # a single byte is one thread waking another
                yield Event("sent", path, data)
        case "pwrite64":
            offset = int(re.findall(r"\d+", rest.rpartition('"')[2])[1])
            yield Event("wrote", path, texts[0][0], offset)
        case "ftruncate":
            length = int(re.findall(r"\d+", rest.rpartition(">,")[2])[0])
            yield Event("cut", path, offset=length)
        case "fdatasync" | "fsync":
            yield Event("syncing", path, thread=thread)
        case "openat" if "O_CREAT" in rest:
            yield Event("made", texts[0][0].decode())
        case "unlink":
            yield Event("removed", texts[0][0].decode())
        case "rename":
            yield Event("renamed", texts[1][0].decode(), texts[0][0])


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def _ours(path: str, folder: Path) -> bool:
    """True for the folder itself and for what survives in it."""
    lasting = path.startswith(f"{folder}/payment.db") and not path.endswith((".lock", "-shm"))
    return lasting or path == str(folder)


@dataclass(slots=True, eq=False)
class File:
    """The bytes on the platter, and the writes since, in order."""

    synced: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)


class Disk:
    """A folder and its files, played forward event by event."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._now: dict[str, File] = {}
        self._durable: dict[str, File] = {}
        self._names: list[tuple[str, File | None, str]] = []
        """Names that were given (a file) or taken (None) since the folder was synced; for a file
        that was renamed, its old name too."""
        self._covered: dict[int, list[Event]] = {}
        """By thread: what its sync, which is under way, will have made durable."""
        self.dropped: Counter[str] = Counter()
        """Writes that a loss of power has taken, by the name of the file."""
        self.torn = self.lost_names = 0

    def play(self, event: Event) -> None:
        """Let one event happen."""
        match event.what:
            case "made" if event.path not in self._now:
                file = self._now[event.path] = File()
                self._names.append((event.path, file, ""))
            case "removed":
                self._now.pop(event.path, None)
                self._names.append((event.path, None, ""))
            case "renamed":
                old = event.data.decode()
                file = self._now[event.path] = self._now.pop(old)
                self._names.append((event.path, file, old))
            case "wrote" | "cut":
                self._now[event.path].pending.append(event)
            case "syncing" if event.path != self._folder:
                self._covered[event.thread] = list(self._now[event.path].pending)
            case "synced" if event.path == self._folder:
                self._durable = dict(self._now)
                self._names.clear()
            case "synced":
                file = self._now[event.path]
                for done in self._covered.pop(event.thread):
                    _apply(file.synced, done)
                    file.pending.remove(done)
                for _, _, old in (name for name in self._names if name[1] is file):
                    self._durable.pop(old, None)
                self._durable[event.path] = file
                self._names = [name for name in self._names if name[1] is not file]

    def after_power_loss(self, dice: random.Random, kept: float) -> dict[str, bytes]:
        """The files as they may be found, by path; `kept` is the share of what was not synced."""
        names = dict(self._durable)
        for path, file, old in self._names:
            if dice.random() >= kept:
                self.lost_names += 1
            elif file is None:
                names.pop(path, None)
            else:
                names.pop(old, None)
                names[path] = file
        return {path: self._found(file, dice, kept) for path, file in names.items()}

    def _found(self, file: File, dice: random.Random, kept: float) -> bytes:
        found = bytearray(file.synced)
        for event in file.pending:
            if dice.random() >= kept:
                self.dropped[Path(event.path).name] += 1
            elif event.data and dice.random() < TORN and kept < 1.0:
                self.torn += 1
                sectors = dice.randrange(1 + len(event.data) // SECTOR_BYTES)
                _apply(found, event._replace(data=event.data[: sectors * SECTOR_BYTES]))
            else:
                _apply(found, event)
        return bytes(found)


def _apply(content: bytearray, event: Event) -> None:
    if event.what == "cut":
        del content[event.offset :]
        content.extend(bytes(event.offset - len(content)))
    else:
        content.extend(bytes(max(0, event.offset - len(content))))
        content[event.offset : event.offset + len(event.data)] = event.data


def message_of(event: Event) -> Message:
    """A sent event as a message."""
    head, _, body = event.data.partition(b"\r\n\r\n")
    return Message(head + b"\r\n\r\n", body)
