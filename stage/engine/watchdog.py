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
from typing import Final, NamedTuple, Protocol

from stage.ports.author_code import StuckCode, Suspicion, Thread

LOOK_SECONDS: Final = 0.25
STACK_CALLS_MAX: Final = 12
"""The innermost calls of a stuck thread that a report shows."""


class Record(Protocol):
    """The part of `ports.author_code.AuthorCode` that has to outlive the process."""

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


class _Mark(NamedTuple):
    saga_id: str
    step: str


class Watchdog:
    """ports.author_code.AuthorCode. `start` it in the event loop that it watches."""

    def __init__(
        self, record: Record, report: Callable[[StuckCode], None], *, stuck_seconds: float
    ) -> None:
        """`report` is called once a stuck piece of code, in the watchdog's thread."""
        self._record = record
        self._report = report
        self._looks_max = max(2, round(stuck_seconds / LOOK_SECONDS))
        self._running: dict[int, _Mark] = {}
        """The code that runs now, by thread."""
        self._seen: dict[int, tuple[_Mark, int]] = {}
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
        self.suspicion = record.suspicion
        self.innocent = record.innocent

    def entered(self, saga_id: str, step: str) -> None:
        """See AuthorCode."""
        self._running[threading.get_ident()] = _Mark(saga_id, step)
        self._record.entered(saga_id, step)

    def left(self, saga_id: str, step: str, *, ended: bool) -> None:
        """See AuthorCode."""
        self._running.pop(threading.get_ident(), None)
        self._record.left(saga_id, step, ended=ended)

    @property
    def stuck(self) -> bool:
        """See AuthorCode."""
        return bool(self._stuck)

    def start(self) -> None:
        """Begin to look."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
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
            mark = self._running.get(self._loop_thread) or _Mark("", "")
            self._tell(Thread.LOOP, self._loop_thread, mark, self._unanswered)
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
                self._tell(Thread.WRITER, thread, mark, looks)
            if looks >= self._looks_max:
                stuck = (Thread.WRITER,)
        return stuck

    def _tell(self, which: Thread, thread: int, mark: _Mark, looks: int) -> None:
        frame = sys._current_frames().get(thread)
        calls = traceback.extract_stack(frame)[-STACK_CALLS_MAX:] if frame is not None else []
        self._report(
            StuckCode(
                thread=which,
                saga_id=mark.saga_id,
                step=mark.step,
                seconds=looks * LOOK_SECONDS,
                stack=tuple(f"{call.filename}:{call.lineno} {call.name}" for call in calls),
            )
        )
