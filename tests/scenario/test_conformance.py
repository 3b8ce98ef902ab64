"""A stage is a downstream itself: it keeps the laws by which others are judged."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stage.neighbours.conformance.caller import Caller
from stage.neighbours.conformance.laws import LAWS, Law
from stage.neighbours.shared.tokens import Keys
from tests.scenario.chain import ORDER, Chain, running_chain


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path) as running:
        yield running


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
async def test_a_stage_keeps_the_law(chain: Chain, law: Law) -> None:
    """With a shipping behind it, which is asked in turn."""
    caller = Caller(chain.stage, "order", Keys(), ORDER)
    async with caller.open():
        await law(caller)
