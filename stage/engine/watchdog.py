"""A thread that watches author code: a function that does not end must not go unseen (rule 35).

It looks several times a second. A function that a look finds again and again in the same thread is
stuck, and so is the event loop when it does not answer. Looks are counted, not seconds: a process
that was frozen for long has been looked at once.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from threading import get_ident
from typing import Final, Protocol

from stage.ports.author_code import Mark, StuckCode, Suspicion, Thread

LOOK_SECONDS: Final = 0.25
STACK_CALLS_MAX: Final = 12
"""The innermost calls of a stuck thread that a report shows."""


class Record(Protocol):
    """The part of `ports.author_code.AuthorCode` that knows what runs, and what ran at a death."""

    running: dict[int, Mark]
    """The code that runs now, by thread: each piece has a mark of its own, the same object."""

    def entered(self, saga_id: str, step: str) -> None:
        """See AuthorCode."""
        ...

    def left(self, saga_id: str, step: str, *, ended: bool) -> None:
        """See AuthorCode."""
        ...

    def suspicion(self, saga_id: str) -> Suspicion | None:
        """See AuthorCode."""
        ...

    def innocent(self, saga_id: str) -> bool:
        """See AuthorCode."""
        ...


class Watchdog:
    """ports.author_code.AuthorCode. `start` it in the event loop that it watches."""

    def __init__(
        self, record: Record, report: Callable[[StuckCode], None], *, stuck_seconds: float
    ) -> None:
        """`report` is called once a stuck piece of code, in the watchdog's thread."""
        self._report = report
        self._looks_max = max(2, round(stuck_seconds / LOOK_SECONDS))
        self._running = record.running
        self._seen: dict[int, tuple[Mark, int]] = {}
        """The code that the last look found, and how many looks in a row have found it."""
        self._unanswered = 0
        """Looks in a row that the event loop did not answer."""
        self._question = self._answer = 0
        """The number of the last question to the event loop, and of the last that it answered.

        Each is written by one thread alone. A loop may answer before the question is counted.
        """
        self._stuck: frozenset[Thread] = frozenset()
        self._stopped = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        # A saga calls these some twenty times, so no method here passes the call on.
        self.entered = record.entered
        self.left = record.left
        self.suspicion = record.suspicion
        self.innocent = record.innocent

    @property
    def stuck(self) -> bool:
        """See AuthorCode."""
        return bool(self._stuck)

    def start(self) -> None:
        """Begin to look."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = get_ident()
        threading.Thread(target=self._watch, name="stage-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            self.look_once()

    def look_once(self) -> None:
        """Look at the loop and the other threads, as the thread does until it is stopped."""
        self._stuck = frozenset((*self._look_at_loop(), *self._look_at_writer()))

    def _look_at_loop(self) -> tuple[Thread, ...]:
        assert self._loop is not None
        if self._answer == self._question:
            self._unanswered = 0
            self._question += 1
            try:
                self._loop.call_soon_threadsafe(self._answered, self._question)
            except RuntimeError:  # it is closed
                return ()
        self._unanswered += 1
        if self._unanswered == self._looks_max:
            mark = self._running.get(self._loop_thread, ("", ""))
            self._report_stuck(Thread.LOOP, self._loop_thread, mark, self._unanswered)
        return (Thread.LOOP,) if self._unanswered >= self._looks_max else ()

    def _answered(self, question: int) -> None:
        self._answer = question

    def _look_at_writer(self) -> tuple[Thread, ...]:
        before, self._seen = self._seen, {}
        stuck: tuple[Thread, ...] = ()
        for thread, mark in list(self._running.items()):
            if thread == self._loop_thread:
                continue
            known, looks = before.get(thread, (None, 0))
            looks = looks + 1 if known is mark else 1
            self._seen[thread] = mark, looks
            if looks == self._looks_max:
                self._report_stuck(Thread.WRITER, thread, mark, looks)
            if looks >= self._looks_max:
                stuck = (Thread.WRITER,)
        return stuck

    def _report_stuck(self, which: Thread, thread: int, mark: Mark, looks: int) -> None:
        frame = sys._current_frames().get(thread)
        saga_id, step = mark
        calls = traceback.extract_stack(frame)[-STACK_CALLS_MAX:] if frame is not None else []
        self._report(
            StuckCode(
                thread=which,
                saga_id=saga_id,
                step=step,
                seconds=looks * LOOK_SECONDS,
                stack=tuple(f"{call.filename}:{call.lineno} {call.name}" for call in calls),
            )
        )
