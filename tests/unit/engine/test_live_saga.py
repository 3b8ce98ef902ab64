"""Whether a live saga is open is known at once, and by a future for those that came before."""

from __future__ import annotations

import asyncio

import pytest

from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.saga.opening import OpenRequest
from stage.ports.engine import Busy


def waiting(live: LiveSaga) -> asyncio.Task[None]:
    async def wait() -> None:
        await live.opened

    return asyncio.ensure_future(wait())


async def test_those_that_wait_and_those_that_come_later_learn_that_it_is_open() -> None:
    live = LiveSaga(OpenRequest(saga_id="s"))
    before = waiting(live)
    await asyncio.sleep(0)
    assert not before.done()
    live.set_open()
    await before
    await waiting(live)


async def test_it_is_either_open_or_refused_whichever_came_first() -> None:
    opened, refused = LiveSaga(OpenRequest(saga_id="o")), LiveSaga(OpenRequest(saga_id="r"))
    opened.set_open()
    opened.refuse(Busy("too many"))
    refused.refuse(Busy("too many"))
    refused.refuse(RuntimeError("it left memory"))
    refused.set_open()
    await opened.opened
    assert not refused.is_open
    with pytest.raises(Busy):
        await refused.opened


async def test_a_refusal_reaches_those_that_wait_already() -> None:
    live = LiveSaga(OpenRequest(saga_id="s"))
    before = waiting(live)
    await asyncio.sleep(0)
    live.refuse(Busy("too many"))
    with pytest.raises(Busy):
        await before
