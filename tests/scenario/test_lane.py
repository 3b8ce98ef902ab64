"""The setting `no_lane`: the same answers and journals over HTTP, and sagas that do go along it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stage.engine.saga.lane import Lane
from tests.scenario.chain import Chain, running_chain

WRITTEN = [
    "accepted",
    "step_succeeded",
    "step_started",
    "step_succeeded",
    "step_succeeded",
    "step_started",
    "step_succeeded",
    "completed",
]


@pytest.fixture(params=[False, True], ids=["without the lane", "on the lane"])
async def rode(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Chain, Counter[str]]]:
    """A chain, and how often the lane was asked."""
    asked: Counter[str] = Counter()
    for name in ("begin", "go_on", "conclude"):
        original = getattr(Lane, name)

        def counting(*given: Any, name: str = name, original: Any = original) -> Any:
            asked[name] += 1
            return original(*given)

        monkeypatch.setattr(Lane, name, counting)
    async with running_chain(tmp_path, no_lane=not request.param) as chain:
        yield chain, asked


async def test_a_usual_saga_has_the_usual_journal(
    rode: tuple[Chain, Counter[str]], request: pytest.FixtureRequest
) -> None:
    """On the lane it is the lane that writes it."""
    chain, asked = rode
    replies = await asyncio.gather(*(chain.send("s-1") for _ in range(3)))
    assert {200} == {status for status, _, _ in replies}
    assert WRITTEN == await chain.events("s-1")
    on_it = "on the lane" in request.node.callspec.id
    # It is asked behind the call as well whether the saga ends there.
    expected = Counter(begin=1, go_on=1, conclude=2) if on_it else Counter[str]()
    assert expected == asked
