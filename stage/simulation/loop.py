"""An event loop in which time is a number: it jumps to the next timer when nothing is ready.

Nothing in a simulation sleeps. Tasks know the process they belong to, so that a crash can stop
all of a process at once and in one order.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_700_000_000.0
"""The wall clock when a simulation begins, in seconds since 1970."""


class Stuck(Exception):
    """Nothing is ready and no timer is set: somebody waits for what will never come."""


class _NothingToRead(selectors.BaseSelector):
    """A selector that never has news; instead of waiting it lets the loop's time pass."""

    def __init__(self) -> None:
        self.passed: Callable[[float], None] = lambda seconds: None
        self._map: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """The loop's pipe to itself; nobody writes to it, for there is one thread."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self._map[fd] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors.BaseSelector."""
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        return self._map.pop(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """No news, and `timeout` seconds later."""
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        if timeout > 0:
            self.passed(timeout)
        return []

    def get_map(self) -> dict[int, selectors.SelectorKey]:  # type: ignore[override]
        """See selectors.BaseSelector."""
        return self._map


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop on virtual time, in one thread."""

    def __init__(self) -> None:
        selector = _NothingToRead()
        self._now = 0.0
        super().__init__(selector)
        self._clock_resolution = 1e-9
        selector.passed = self._pass
        self.set_task_factory(_in_process)
        self.outside = Context()
        """Belongs to no process: what the network and the neighbours do."""
        self.complaints: list[str] = []
        """What callbacks raised and nobody handled."""
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now

    def _pass(self, seconds: float) -> None:
        self._now += seconds

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "never retrieved" in str(context.get("message", "")):
            return  # told when memory is collected, which is no event of the simulation
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
        task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[Any]) -> None:
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
