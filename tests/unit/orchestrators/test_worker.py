"""The worker of a chain, and what it shows Temporal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import TLSConfig

from stage.orchestrators.temporal import worker
from stage.orchestrators.temporal.config import ChainConfig


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each connection to Temporal."""
    made: list[dict[str, Any]] = []

    async def connect(_: str, **given: Any) -> SimpleNamespace:
        made.append(given)
        return SimpleNamespace(api_key=given["api_key"])

    monkeypatch.setattr(Client, "connect", connect)
    return made


async def test_a_dev_server_is_reached_in_the_clear(connected: list[dict[str, Any]]) -> None:
    """Without a file of credentials."""
    await worker.fresh_client(ChainConfig(stages={})).open()
    assert (None, None) == (connected[0]["tls"], connected[0]["api_key"])


async def test_a_server_that_asks_for_a_key_is_reached_by_tls(
    connected: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The key is that of the file."""
    file = tmp_path / "key"
    file.write_text("first\n")
    await worker.fresh_client(ChainConfig(stages={}, temporal_api_key_file=str(file))).open()
    assert isinstance(connected[0]["tls"], TLSConfig)
    assert "first" == connected[0]["api_key"]
