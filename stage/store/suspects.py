"""One mapped page beside the database: which author code runs, and in whose code processes died.

A write to a mapped page costs no system call and outlives the process, though not the power: what
is to be survived is a function that ends the process before anything of its saga is journaled
(rule 35). The page has a slot for each thread that runs author code, and a list of suspects:

    slots        1 saga step            what runs in that thread; zeros while nothing does
    suspects     deaths saga step       one a function that ran at a death and has not ended since
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from struct import Struct
from threading import get_ident
from typing import Final

from stage.ports.author_code import Mark, Suspicion

PAGE_BYTES: Final = 4096
RECORD_BYTES: Final = 256
"""A saga id has at most 128 characters, all ASCII; the name of a step is cut to fit."""
SLOTS: Final = 3
"""The writer's thread, the event loop, and the writer's thread after a reopen."""
SUSPECTS_MAX: Final = PAGE_BYTES // RECORD_BYTES - SLOTS
_RECORD: Final = Struct("B128s100s")
"""Deaths, the saga and the step; zeros fill up what is shorter."""
_write: Final = _RECORD.pack_into
_DEATHS_MAX: Final = 255
_NOTHING: Final = b"\0"


class SuspectsPage:
    """The record of `ports.author_code.AuthorCode`. Not open, it keeps only what runs now."""

    def __init__(self, database: Path | None) -> None:
        """`database` is None for one that does not outlive the process, and has no page."""
        self._database = database
        self.running: dict[int, Mark] = {}
        """The code that runs now, by thread; kept without a page too."""
        self._page: mmap.mmap | bytearray = bytearray(PAGE_BYTES)
        """The mapped page while it is open."""
        self._slots = _Slots()
        self._deaths: dict[Mark, int] = {}
        self._died_in: frozenset[str] = frozenset()

    def open(self) -> None:
        """Map the page and count the deaths it shows. Blocks on disk; raises OSError.

        The lock of the database has to be held. Without a database there is nothing to open.
        """
        if self._database is None:
            return
        real = self._database.resolve()  # two names of one file are one file
        path = real.with_name(real.name + ".running")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Written, not only extended: the first write to a hole ends the process on a full disk.
            page = os.pread(descriptor, PAGE_BYTES, 0).ljust(PAGE_BYTES, _NOTHING)
            os.pwrite(descriptor, page, 0)
            self._page = mmap.mmap(descriptor, PAGE_BYTES)
        finally:
            os.close(descriptor)
        records = [_decode(page, number) for number in range(SLOTS + SUSPECTS_MAX)]
        self._deaths = dict(filter(None, records[SLOTS:]))
        running = [record[0] for record in records[:SLOTS] if record is not None]
        for key in running:
            self._deaths[key] = min(self._deaths.pop(key, 0) + 1, _DEATHS_MAX)  # the latest last
        self._died_in = frozenset(saga_id for saga_id, _ in running)
        for slot in range(SLOTS):
            self._page[slot * RECORD_BYTES] = 0
        self._write_suspects()

    def close(self) -> None:
        """Unmap the page; the file stays."""
        page, self._page = self._page, bytearray(PAGE_BYTES)
        if isinstance(page, mmap.mmap):
            page.close()

    def entered(self, saga_id: str, step: str) -> None:
        """See AuthorCode."""
        thread = get_ident()
        self.running[thread] = (saga_id, step)  # a new object: the watchdog tells them apart
        if saga_id:
            _write(self._page, self._slots[thread], 1, saga_id.encode(), step.encode())

    def left(self, saga_id: str, step: str, *, ended: bool) -> None:
        """See AuthorCode."""
        thread = get_ident()
        self.running.pop(thread, None)  # on PostgreSQL others come and go while a function awaits
        if saga_id:
            self._page[self._slots[thread]] = 0
            if ended and self._deaths and self._deaths.pop((saga_id, step), None) is not None:
                self._write_suspects()

    def suspicion(self, saga_id: str) -> Suspicion | None:
        """See AuthorCode."""
        if not self._deaths:
            return None
        found = [
            Suspicion(step=step, deaths=deaths)
            for (suspect, step), deaths in list(self._deaths.items())
            if suspect == saga_id
        ]
        return max(found, key=lambda each: each.deaths, default=None)

    def innocent(self, saga_id: str) -> bool:
        """See AuthorCode."""
        return bool(self._died_in) and saga_id not in self._died_in

    def _write_suspects(self) -> None:
        """Write the list anew; the suspects of the latest deaths, where they are too many."""
        kept = list(self._deaths.items())[-SUSPECTS_MAX:]
        self._deaths = dict(kept)
        records = [
            _RECORD.pack(deaths, saga_id.encode(), step.encode()).ljust(RECORD_BYTES, _NOTHING)
            for (saga_id, step), deaths in kept
        ]
        text = b"".join(records).ljust(SUSPECTS_MAX * RECORD_BYTES, _NOTHING)
        self._page[SLOTS * RECORD_BYTES :] = text


class _Slots(dict[int, int]):
    """Where the slot of a thread begins in the page."""

    def __missing__(self, thread: int) -> int:
        start = self[thread] = len(self) % SLOTS * RECORD_BYTES
        return start


def _decode(page: bytes, number: int) -> tuple[Mark, int] | None:
    """A record; None for an empty one, and for one that a death tore."""
    deaths, saga, step = _RECORD.unpack_from(page, number * RECORD_BYTES)
    if not deaths:
        return None
    try:
        key = saga.rstrip(_NOTHING).decode(), step.rstrip(_NOTHING).decode()
    except UnicodeDecodeError:
        return None
    return (key, deaths) if key[0] else None
