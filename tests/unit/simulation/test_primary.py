"""A simulated process before a server that took the place of its own."""

from __future__ import annotations

import asyncio

import pytest

from stage.core.errors import StoreUnavailable
from stage.simulation.primary import Primary


def primary() -> tuple[Primary, list[str]]:
    """A server, and whom it served an older state."""
    served: list[str] = []
    return Primary(served.append), served


def test_a_whole_standby_serves_everybody() -> None:
    """While the primary is lost nobody is served; then all are, and nothing is missing."""
    server, served = primary()
    server.wrote("a")
    server.lose()
    with pytest.raises(StoreUnavailable):
        server.check("a")

    server.promote(older=False)

    server.check("a")
    assert [] == served and 1 == server.losses


@pytest.mark.parametrize("did", [Primary.wrote, Primary.renewed])
def test_an_older_standby_is_refused_by_whoever_lacks_something(did: object) -> None:
    """A batch or a renewal; who has done neither since cannot know, and is told of."""
    server, served = primary()
    server.wrote("a")
    server.wrote("b")
    server.cut()
    did(server, "a")  # type: ignore[operator]  # a method of the server
    server.lose()
    server.promote(older=True)

    assert (False, True) == (server.cannot_know("a"), server.cannot_know("b"))
    with pytest.raises(StoreUnavailable, match="older"):
        server.check("a")
    server.check("b")
    assert ["b"] == served

    server.accept()
    server.check("a")


async def test_a_commit_in_doubt_waits_for_the_server() -> None:
    """It is settled by whoever stands there, and not before."""
    server, _ = primary()
    server.lose()
    settling = asyncio.ensure_future(server.settled("a", landed=True))
    await asyncio.sleep(0)
    assert not settling.done()

    server.promote(older=False)

    assert await settling


async def test_a_loss_may_wait_for_a_commit() -> None:
    """It strikes while the next one is under way."""
    server, _ = primary()
    waiting = asyncio.ensure_future(server.next_commit())
    await asyncio.sleep(0)

    server.begins_commit()

    await waiting
