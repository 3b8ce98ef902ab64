"""The worker of a chain, and what it shows Temporal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import TLSConfig

from stage.orchestrators.temporal import worker
from stage.orchestrators.temporal.config import ChainConfig

UNTIL_SECONDS_MAX = 60.0


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
    await worker.connect(ChainConfig(stages={}))
    assert (None, None) == (connected[0]["tls"], connected[0]["api_key"])


async def test_a_new_api_key_is_shown_and_an_empty_file_changes_nothing(
    connected: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By TLS, on the connection that there is."""
    monkeypatch.setattr(worker, "KEY_SECONDS", 0.01)
    file = tmp_path / "key"
    file.write_text("first\n")
    config = ChainConfig(stages={}, temporal_api_key_file=str(file))
    client = await worker.connect(config)
    assert isinstance(connected[0]["tls"], TLSConfig)
    assert "first" == connected[0]["api_key"]

    file.write_text("")
    await config.files.show_new_key(client)
    assert "first" == client.api_key
    file.write_text("second\n")
    async with worker.showing_new_keys(config, client):
        async with asyncio.timeout(UNTIL_SECONDS_MAX):
            while "second" != client.api_key:  # noqa: ASYNC110 - a thread reads it
                await asyncio.sleep(0.01)
