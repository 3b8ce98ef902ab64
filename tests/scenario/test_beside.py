"""Endpoints beside a stage: they read its tables, and cannot write into them."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from stage import store_of
from stage.bootstrap import build_app, build_asgi
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo import psp
from stage.demo.payment import payment
from stage.store.errors import StatementRefused
from stage.wire.envelope import Envelope, encode_envelope
from tests.scenario.chain import ORDER
from tests.scenario.test_mounting import HEADERS

MEMORY = "sqlite:///:memory:"
STATE = "SELECT state FROM payment WHERE saga_id = $1"


async def test_an_endpoint_beside_the_stage_reads_its_tables_and_writes_nothing() -> None:
    """By the application that was mounted; the one around it is refused with the fix."""
    async with TestServer(psp.make_app()) as api:
        url = str(api.make_url("")).rstrip("/")
        inner = build_app(payment, Config(auth="none", database=MEMORY, externals={"psp": url}))
        outer = web.Application()
        outer.add_subapp("/payment/", inner)
        async with TestClient(TestServer(outer)) as client:
            tables = store_of(inner)
            assert await tables.fetchone(STATE, "s-1") is None
            body = encode_envelope(Envelope(saga_id="s-1", data=ORDER))
            answer = await client.post("/payment/sagas", data=body, headers=HEADERS)
            assert 200 == answer.status
            assert "charged" == await tables.fetchval(STATE, "s-1")
            for statement in ("DELETE FROM payment", "WITH x AS (SELECT 1) DELETE FROM payment"):
                with pytest.raises(StatementRefused, match="write in a step of a saga"):
                    await tables.fetchall(statement)
            assert [("s-1", "charged")] == await tables.fetchall(
                "SELECT saga_id, state FROM payment"
            )
        with pytest.raises(ConfigurationError, match="not the application around it"):
            store_of(outer)


async def test_under_asgi_the_tables_are_there_while_the_lifespan_lasts() -> None:
    """Outside of it there is no store to read from, and the message says so."""
    config = Config(auth="none", database=MEMORY, externals={"psp": "http://127.0.0.1:9"})
    app = build_asgi(payment, lambda: config)
    async with app.lifespan():
        assert 0 == await store_of(app).fetchval("SELECT count(*) FROM payment")
    with pytest.raises(ConfigurationError, match="while its lifespan lasts"):
        store_of(app)
