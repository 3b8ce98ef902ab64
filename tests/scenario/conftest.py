"""The fixtures of all scenarios: a chain of its own for each, and the lines of the log."""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog

from stage.engine.embedded import limits
from stage.telemetry import logs
from tests.scenario.chain import Chain, running_chain
from tests.waits import HANG_SECONDS


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query waits until what was answered before it is durable, however busy the disk is."""
    monkeypatch.setattr(limits, "WRITTEN_SECONDS_MAX", HANG_SECONDS)


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path) as running:
        yield running


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Every line that the process writes during the test, as JSON, from level debug on."""
    written, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.configure(format="json", level="debug", stream=written)
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
