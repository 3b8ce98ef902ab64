"""An attempt that is alone on its way is awaited inline: by the task of its saga.

    journal ──> send ──> journal ──> send ...      one task, nothing between the two

Most sagas are never heard of between their first request and their end. For them a task for every
attempt, and a place where its end waits for the saga, are built and torn down for nothing. Inline
both are left out. Nothing is decided here: which attempt leaves, what is journaled before it and
what its end means come from the same units as ever, so the journal is the same, entry for entry.

When anything comes for the saga while an attempt is under way (a request to compensate, a verb, a
caller that is to be answered 202, a second request of the same call, a drain, the loss of the
saga), the task stays with its attempt, and another one goes on with the saga, as if both had always
been apart. Where another step of the saga is due at an instant, its task waits for that, and the
attempt has one of its own. Nothing waits for the end of an attempt that would not have waited
otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stage.core import events as e
from stage.engine.embedded.live_saga import LiveSaga
from stage.ports.observer import Span


class HandedOver(Exception):
    """Another task goes on with the saga; this one had only its attempt left, which ended."""


async def await_inline(
    live: LiveSaga,
    attempt: Awaitable[e.Event | None],
    hand_over: Callable[[], None],
    span: Span,
) -> e.Event:
    """Await the attempt in this task; how it ended.

    `hand_over` starts the task that goes on with the saga once something came for it. Then the end
    is put into the inbox with the `span` that it ends, and HandedOver raised.
    """
    task = asyncio.current_task()
    assert task is not None
    live.in_flight += 1
    live.sends[task] = None  # a saga that is lost stops what it sends
    live.interrupt = hand_over  # it is taken away when it is called
    try:
        event = await attempt
    except asyncio.CancelledError:
        if live.interrupt is None:
            raise HandedOver from None
        raise
    finally:
        handed_over, live.interrupt = live.interrupt is None, None
        live.in_flight -= 1
        del live.sends[task]
    if handed_over:
        if event is not None:
            live.post(event, span)
        raise HandedOver
    assert event is not None, "a saga does not leave memory while its only task waits"
    return event
