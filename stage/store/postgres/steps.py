"""Runs a unit step by step within the event loop, which it cannot see.

Every method of a unit that needs the server awaits one `Asked`: the unit's coroutine hands it out,
the writer awaits the server, and the answer goes back in. Any other await of a unit is an escape,
as in `store.drive`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from types import CoroutineType
from typing import Any, TypeVar

from stage.store.drive import closed, judged, outside_loop

T = TypeVar("T")


class Asked:
    """Work for the server, which a unit waits for."""

    __slots__ = ("work",)

    def __init__(self, work: Callable[[], Awaitable[Any]]) -> None:
        self.work = work

    def __await__(self) -> Generator[Asked, Any, Any]:
        return (yield self)


def steps(start: Callable[..., Awaitable[T]], *arguments: object) -> Generator[Asked, Any, T]:
    """The requests of `start(*arguments)` to the server, in order; in the end its value.

    Raises TransactionEscaped when it awaits anything else, after it was closed.
    """
    try:
        work = start(*arguments)
        running: CoroutineType[Any, Any, T] | Generator[Any, Any, T]
        running = work if isinstance(work, CoroutineType) else work.__await__()
        leaf = running.send(None)
        while isinstance(leaf, Asked):
            try:
                answer = yield leaf
            except BaseException as error:
                leaf = running.throw(error)
            else:
                leaf = running.send(answer)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except RuntimeError as error:
        if (escaped := judged(error)) is error:
            raise
        raise escaped from error
    raise closed(running, leaf)


class Guarded(Awaitable[T]):
    """`start()` within a unit: an escape of it is an error that the unit can catch."""

    __slots__ = ("_start",)

    def __init__(self, start: Callable[[], Awaitable[T]]) -> None:
        self._start = start

    def __await__(self) -> Generator[Asked, Any, T]:
        return steps(self._start)


async def run(context: Context, start: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """The value of `start(*arguments)`, run within `context` and outside of the event loop."""
    asking = steps(start, *arguments)
    try:
        asked = _step(context, asking.send, None)
        while True:
            try:
                answer = await asked.work()
            except BaseException as error:
                asked = _step(context, asking.throw, error)
            else:
                asked = _step(context, asking.send, answer)
    except StopIteration as stop:
        value: T = stop.value
        return value


def _step(context: Context, go_on: Callable[[Any], Asked], with_what: Any) -> Asked:
    with outside_loop():
        return context.run(go_on, with_what)
