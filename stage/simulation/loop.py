"""An event loop in which time is a number: it jumps to the next timer when nothing is ready.

Nothing in a simulation sleeps. Tasks know the process they belong to, so that a crash can stop
all of a process at once and in one order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, TypeVar

from stage.engine.clock import SteadyClock
from stage.ports.external import External

T = TypeVar("T")

EPOCH = 1_700_000_000.0
"""The wall clock when a simulation begins, in seconds since 1970."""
POLL_SECONDS = (0.05, 10.0)
"""The pauses between two looks of a process for mail, for what is due, and for what to close."""
DAY_SECONDS = 86_400.0
STILL_SECONDS = 60.0
"""The pause between two looks while the world is still: days of an outage cost their events."""


class Stuck(Exception):
    """Nothing is ready and no timer is set: somebody waits for what will never come."""


class _Handle:
    """A callback that waits for its turn: what asyncio asks of a handle, and no more."""

    __slots__ = ("arguments", "call", "context", "gone", "when_")

    def __init__(
        self,
        call: Callable[..., object],
        arguments: tuple[Any, ...],
        context: Context | None,
        when: float = 0.0,
    ) -> None:
        self.call = call
        self.arguments = arguments
        self.context = copy_context() if context is None else context
        self.when_ = when
        self.gone = False

    def cancel(self) -> None:
        """It is not called any more."""
        self.gone = True

    def cancelled(self) -> bool:
        """See asyncio.Handle."""
        return self.gone

    def when(self) -> float:
        """See asyncio.TimerHandle."""
        return self.when_


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's loop on virtual time, in one thread, without files or sockets.

    `call_soon`, `call_at` and `_run_once` are those of asyncio without what a simulation does not
    have: a fifth of its time went there. Timers of one instant run in the order in which they were
    set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._soon: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._set = 0
        self.set_task_factory(_in_process)
        self.outside = Context()
        """Belongs to no process: what the network and the neighbours do."""
        self.still = False
        """Nothing is wrong any more but an outage that lasts."""
        self.complaints: list[str] = []
        """Errors of callbacks that nobody handled."""
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now

    def call_soon(  # type: ignore[override]  # a handle of ours
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Handle:
        """See asyncio.AbstractEventLoop."""
        handle = _Handle(callback, args, context)
        self._soon.append(handle)
        return handle

    def call_later(  # type: ignore[override]  # a handle of ours
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Handle:
        """See asyncio.AbstractEventLoop."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # a handle of ours
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Handle:
        """See asyncio.AbstractEventLoop."""
        handle = _Handle(callback, args, context, when)
        self._set += 1
        heappush(self._timers, (when, self._set, handle))
        return handle

    def _run_once(self) -> None:
        soon, timers = self._soon, self._timers
        while timers and timers[0][2].gone:
            heappop(timers)
        if not soon:
            if not timers:
                raise Stuck("nothing is ready and no timer is set")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            soon.append(heappop(timers)[2])
        for _ in range(len(soon)):
            handle = soon.popleft()
            if handle.gone:
                continue
            try:
                handle.context.run(handle.call, *handle.arguments)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "a callback failed", "exception": error})

    def close(self) -> None:
        """See asyncio.AbstractEventLoop."""
        self._soon.clear()
        self._timers.clear()
        super().close()

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "never retrieved" in str(context.get("message", "")):
            return  # said when memory is collected, which is no event of the simulation
        self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")


class VirtualClock:
    """ports.clock.Clock on a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return EPOCH + self._loop.time()

    async def sleep(self, seconds: float) -> None:
        """Return after that many virtual seconds."""
        await asyncio.sleep(max(seconds, 0.0))


class WallClock(SteadyClock):
    """The clock of one process, as in reality: a wall clock that may be wrong, made steady."""

    def __init__(self, loop: VirtualLoop, wall: Callable[[], float]) -> None:
        """`wall` is the wall clock that the process goes by."""
        super().__init__(wall=wall, monotonic=loop.time)
        self._loop = loop

    async def sleep(self, seconds: float) -> None:
        """Return after that many virtual seconds; later than that where it is only to look."""
        least, most = POLL_SECONDS
        if self._loop.still and least <= seconds <= most:
            seconds = STILL_SECONDS
        await asyncio.sleep(max(seconds, 0.0))


class Process:
    """Tasks that live and die together. A dead process does nothing any more.

    A paused one does nothing until it goes on: it stands at its next door to the world (`gate`).
    """

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.alive = True
        self._loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._resumed: asyncio.Future[None] | None = None
        self.external: External | None = None
        """The external systems as it reaches them."""
        self._context: Context = copy_context()
        self._context.run(_PROCESS.set, self)
        self.deaths: dict[asyncio.Future[Any], None] = {}
        """Futures that are cancelled when the process dies: who waits for its answers."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in this process."""
        return self._loop.create_task(work, context=self._context.copy())

    def own(self, task: asyncio.Task[Any]) -> None:
        """A task was created in this process."""
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)

    def kill(self) -> None:
        """All its tasks die at once, in the order in which they were created."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()

    def is_paused(self) -> bool:
        """True between `pause` and `resume`."""
        return self._resumed is not None

    def pause(self) -> None:
        """Stop at the next door."""
        if self._resumed is None:
            self._resumed = self._loop.create_future()

    def resume(self) -> None:
        """Go on."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None and not resumed.done():
            resumed.set_result(None)

    @property
    def held(self) -> bool:
        """True when `gate` would not let it pass at once."""
        return self._resumed is not None or not self.alive

    async def gate(self) -> None:
        """Pass while the process runs; wait while it is paused; never return once it is dead."""
        while self._resumed is not None and self.alive:
            await asyncio.shield(self._resumed)
        if not self.alive:
            await self.nothing()

    async def nothing(self) -> None:
        """Wait for ever: what a dead process does."""
        await self._loop.create_future()


_PROCESS: ContextVar[Process | None] = ContextVar("simulated_process", default=None)


def current_process() -> Process | None:
    """The process whose code runs now; None outside of all."""
    return _PROCESS.get()


def _in_process(
    loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None, **options: Any
) -> asyncio.Task[Any]:
    """Make a task and tell the process in which it was made."""
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context, **options)
    owner = context.get(_PROCESS) if context is not None else _PROCESS.get()
    if owner is not None:
        owner.own(task)
        if not owner.alive:
            task.cancel()
    return task
