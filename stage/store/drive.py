"""Runs a coroutine that may not wait for anything: a suspension is an escape.

An escape shows in two ways. A coroutine that suspends hands control back to `send`, which never
happens while it awaits only its unit. And no event loop is running, here as in the writer's thread,
so that `asyncio.create_task` or a socket within a database transaction fails before anything has
left.
"""

from __future__ import annotations

from asyncio import events
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from types import CoroutineType, TracebackType
from typing import Any, TypeVar

from stage.core.errors import TransactionEscaped

T = TypeVar("T")

WHY = (
    "a transaction may only await its own database: an external call inside a database"
    " transaction holds the lock while the network is slow, and cannot be rolled back with it."
    " Move it to a call step"
)

_NO_LOOP = "no running event loop"
"""The message of asyncio in a thread without a loop."""


def drive(start: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Run `start(*arguments)` to its end here and now; return its value, or raise its error.

    Call it where no event loop runs. Raises TransactionEscaped when the coroutine suspends,
    after it was closed, or when it asks for an event loop.
    """
    try:
        work = start(*arguments)
        running: CoroutineType[Any, Any, T] | Generator[Any, Any, T]
        running = work if isinstance(work, CoroutineType) else work.__await__()
        leaf = running.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except RuntimeError as error:
        if (escaped := judged(error)) is error:
            raise
        raise escaped from error
    raise closed(running, leaf)


def judged(error: RuntimeError) -> Exception:
    """TransactionEscaped for an error that says that no loop runs; the error itself for others."""
    if str(error) != _NO_LOOP:
        return error
    asker = _asker(error.__traceback__)
    return TransactionEscaped(f"the transaction called {asker}, which needs an event loop: {WHY}")


def closed(
    running: CoroutineType[Any, Any, Any] | Generator[Any, Any, Any], leaf: object
) -> TransactionEscaped:
    """Close a coroutine that awaits what it must not; the error that names it."""
    awaited = _awaited(running, leaf)
    # Errors of its clean-up are of no interest: everything is rolled back either way.
    with suppress(Exception):
        running.close()
    return TransactionEscaped(f"the transaction awaited {awaited}: {WHY}")


def complete(work: Awaitable[T]) -> T:
    """Run a coroutine of ours, which blocks instead of suspending, to its end here and now."""
    coroutine = work.__await__()
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError(f"{work!r} suspended where it has to block")


@contextmanager
def outside_loop() -> Iterator[None]:
    """Hide the running event loop, as in the writer's thread. The block must not suspend."""
    loop = events._get_running_loop()
    # The names have an underscore but are exported, for authors of event loops.
    events._set_running_loop(None)
    try:
        yield
    finally:
        events._set_running_loop(loop)


def _asker(traceback: TracebackType | None) -> str:
    """The innermost function of Python that asked for the loop, such as `asyncio.tasks.sleep`."""
    name = "something"
    while traceback is not None:
        frame = traceback.tb_frame
        name = f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_qualname}"
        traceback = traceback.tb_next
    return name


def _awaited(suspended: object, leaf: object) -> str:
    """The chain of functions down to what was awaited, such as `reserve > sleep > Future`."""
    names: list[str] = []
    while suspended is not None:
        if (name := getattr(suspended, "__qualname__", None)) is not None:
            names.append(name)
        suspended = getattr(suspended, "cr_await", getattr(suspended, "gi_yieldfrom", None))
    if leaf is not None:
        names.append(type(leaf).__qualname__)
    return " > ".join(names)
