"""The fake external API behind a port: its effects by key, as its law in the process is."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from stage.testing import FakeApi
from stage.testing.external import Hooks, make_external

KEY = "o-1:payment:charge:do"


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
        astray = await client.get("/charge/by-key/o-1%3Apayment%3Acharge%3Ado")
        assert (404, "no_such_path") == (astray.status, (await astray.json())["code"])
        effects = await client.get("/effects")
        assert {"o-1:payment:charge:do": "fx-1"} == await effects.json()
        undo = {"Idempotency-Key": "o-1:payment:charge:undo"}
        assert 200 == (await client.post("/refunds", headers=undo)).status
    assert {} == api.effects


class Slow(FakeApi):
    """It takes calls on, and tells their end by a webhook that is the secret and the key."""

    pends = True

    def webhook(self, key: str, secret: bytes) -> tuple[dict[str, str], bytes]:
        return {"Secret": secret.decode()}, key.encode()


async def test_a_call_that_is_pending_ends_when_it_is_landed_and_its_webhook_is_sent() -> None:
    """202 until then, also to a look; what is not pending is not landed, nor what was undone."""
    came: list[tuple[str, bytes]] = []

    async def hear(request: web.Request) -> web.Response:
        came.append((request.headers["Secret"], await request.read()))
        return web.json_response({})

    listener = web.Application()
    listener.router.add_post("/webhooks/psp", hear)
    api = Slow()
    key = {"Idempotency-Key": KEY}
    async with TestServer(listener) as stage:
        hooks = Hooks(url=str(stage.make_url("/webhooks/psp")), secret=b"s")
        async with TestClient(TestServer(make_external(api, hooks))) as client:
            assert 404 == (await client.post(f"/land/{KEY}")).status
            assert 202 == (await client.post("/charges", headers=key)).status
            assert 202 == (await client.get(f"/charges/{KEY}")).status
            assert ({}, []) == (api.effects, came)
            landed = await client.post(f"/land/{KEY}")
            assert {"landed": KEY, "webhook": 200} == await landed.json()
            assert [("s", KEY.encode())] == came
            assert 201 == (await client.get(f"/charges/{KEY}")).status

            other = {"Idempotency-Key": KEY.replace("o-1", "o-2")}
            assert 202 == (await client.post("/charges", headers=other)).status
            undo = {"Idempotency-Key": "o-2:payment:charge:undo"}
            assert 200 == (await client.post("/refunds", headers=undo)).status
            assert 410 == (await client.post("/charges", headers=other)).status
    assert {KEY: "fx-1"} == api.effects
