"""The setting `no_fast_path`: with the fast path or without, answers and journals are the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stage.engine.saga.fast_path import FastPath
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


@pytest.fixture(params=[False, True], ids=["without the fast path", "on the fast path"])
async def chain_and_calls(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Chain, Counter[str]]]:
    """A chain, and how often the fast path was asked."""
    asked: Counter[str] = Counter()
    for name in ("begin", "go_on", "conclude"):
        original = getattr(FastPath, name)

        def counting(*given: Any, name: str = name, original: Any = original) -> Any:
            asked[name] += 1
            return original(*given)

        monkeypatch.setattr(FastPath, name, counting)
    async with running_chain(tmp_path, no_fast_path=not request.param) as chain:
        yield chain, asked


async def test_a_usual_saga_has_the_usual_journal(
    chain_and_calls: tuple[Chain, Counter[str]], request: pytest.FixtureRequest
) -> None:
    """Each call of the fast path is counted, so that the journal is known to be its own."""
    chain, asked = chain_and_calls
    replies = await asyncio.gather(*(chain.send("s-1") for _ in range(3)))
    assert {200} == {status for status, _, _ in replies}
    assert WRITTEN == await chain.events("s-1")
    on_it = "on the fast path" in request.node.callspec.id
    # It is asked behind the call as well whether the saga ends there.
    expected = Counter(begin=1, go_on=1, conclude=2) if on_it else Counter[str]()
    assert expected == asked
