"""The fake external API behind a port: its effects by key, as its law in the process is."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer

from stage.testing import FakeApi
from stage.testing.external import make_external


async def test_an_effect_is_made_once_looked_up_and_taken_back() -> None:
    """By the key in the header; a look-up without one goes by the end of its path."""
    api = FakeApi()
    async with TestClient(TestServer(make_external(api))) as client:
        key = {"Idempotency-Key": "o-1:payment:charge:do"}
        made = await client.post("/charges", json={"amount": 1}, headers=key)
        again = await client.post("/charges", json={"amount": 1}, headers=key)
        assert (201, {"id": "fx-1"}) == (made.status, await made.json())
        assert await made.read() == await again.read()
        found = await client.get("/charges/by-key/o-1%3Apayment%3Acharge%3Ado")
        assert {"id": "fx-1"} == await found.json()
        effects = await client.get("/effects")
        assert {"o-1:payment:charge:do": "fx-1"} == await effects.json()
        undo = {"Idempotency-Key": "o-1:payment:charge:undo"}
        assert 200 == (await client.post("/refunds", headers=undo)).status
    assert {} == api.effects
