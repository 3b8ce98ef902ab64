"""Orders that are carried out to their end, whether or not their callers wait for that.

A unit that was given to the store is committed although its caller has gone: that is cancelled with
a request whose connection was lost, or with a call of another worker that was awaited too long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

_under_way: Final[set[asyncio.Task[Any]]] = set()
"""The event loop itself keeps no task from being collected."""


async def to_its_end(order: Coroutine[Any, Any, T]) -> T:
    """The value of an order. A caller that leaves ends it for nobody.

    For an order with anything to be done behind its unit, which nobody would do otherwise: a repeat
    finds the unit committed, and does nothing.
    """
    task = asyncio.get_running_loop().create_task(order)
    _under_way.add(task)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


def _ended(task: asyncio.Task[Any]) -> None:
    _under_way.discard(task)
    if not task.cancelled():
        task.exception()  # that of an order whose caller has gone: asyncio would log it
