"""The end of a process that was told to stop and cannot: rule 18 promises that it exits in time.

A thread that author code keeps cannot be stopped from outside. The process is ended around it;
what it worked on is in doubt, and the next start takes it over.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Final

LOOK_SECONDS: Final = 0.25
EXIT_SECONDS_MAX: Final = 4.0
"""From the end of the drain: to close the database, and to send the last spans (2 s)."""
REPORT_SECONDS_MAX: Final = 0.5
STATUS: Final = 70
"""The exit status of a forced end: an internal software error (sysexits.h)."""
STACK_CALLS_MAX: Final = 12

Report = Callable[[Mapping[str, list[str]]], None]
"""Notified of the stacks of the threads that are left, by the name of the thread."""


class ExitGuard:
    """Ends the process `seconds` after the first signal, if it has not ended by itself.

    A worker whose parent was killed ends as by a signal.
    """

    def __init__(self, seconds: float, report: Report, *, parent: int | None = None) -> None:
        """`parent` is the process that a worker serves for; None: it is nobody's worker."""
        self._seconds = seconds
        self._report = report
        self._parent = parent
        self._signalled = False

    def start(self) -> None:
        """Begin to wait for signals. Call it in the main thread, after the loop's own handlers.

        The loop hears of a signal through its wake-up descriptor, which stays. The function that
        Python calls runs between two bytecodes of whatever keeps the main thread, even of a loop
        that never ends; so it only sets a flag, and takes no lock.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        threading.Thread(target=self._guard, name="stage-exit", daemon=True).start()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def _guard(self) -> None:
        while not self._signalled and not self._orphaned():
            time.sleep(LOOK_SECONDS)
        time.sleep(self._seconds)
        # In a thread of its own: a stuck thread may hold a lock of the log.
        last = threading.Thread(target=lambda: self._report(_stacks()), daemon=True)
        last.start()
        last.join(REPORT_SECONDS_MAX)
        os._exit(STATUS)

    def _orphaned(self) -> bool:
        """Whether the parent is gone: author code may keep the event loop from hearing of it."""
        return self._parent is not None and os.getppid() != self._parent


def _stacks() -> dict[str, list[str]]:
    """Where each thread is that keeps the process: daemons do not."""
    frames = sys._current_frames()
    found: dict[str, list[str]] = {}
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and not thread.daemon:
            calls = traceback.extract_stack(frame)[-STACK_CALLS_MAX:]
            found[thread.name] = [f"{call.filename}:{call.lineno} {call.name}" for call in calls]
    return found
