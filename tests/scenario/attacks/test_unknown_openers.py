"""A lost saga whose opener no neighbour names: its opener is not refused for good (rule 36)."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from stage.bootstrap import open_database, reconcile
from stage.config import Config
from stage.demo.payment import payment
from stage.wire.envelope import format_instant
from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.restored import restored_chain

pytestmark = pytest.mark.blocking

LEFT_OUT = "it has no list"


async def adopted(config: Config, saga_id: str) -> None:
    """Have the saga taken over, of which no neighbour says anything."""
    neighbours = {**config.upstreams, **config.downstreams}
    found = await reconcile(
        payment, config, since=None, without=dict.fromkeys(neighbours, LEFT_OUT), dry_run=False
    )
    assert [saga_id] == [lost.id for lost in found.lost]
    with open_database(payment, config) as database:
        database.released(neighbours)


def restored(folder: Path, *upstreams: str) -> Config:
    """The settings of a stage whose database was put back just now."""
    config = Config(
        database=f"sqlite:///{folder / 'payment.db'}",
        upstreams=dict.fromkeys(upstreams, "http://127.0.0.1:9"),
        downstreams={"shipping": "http://127.0.0.1:9"},
    )
    with open_database(payment, config) as database:
        database.restored(time.time())
    return config


async def test_an_upstream_is_answered_503_until_a_person_has_undone_it(tmp_path: Path) -> None:
    """It had 403, and never learnt that nothing stands. Each upstream may be the opener."""
    web, olga = shown_by("web"), shown_by("olga")
    async with named_chain(tmp_path) as chain:
        assert 200 == (await chain.send("kept", via="order", Authorization=shown_by("order")))[0]
    config = restored(tmp_path, "order", "web")
    async with named_chain(tmp_path) as chain:
        assert 503 == (await chain.compensate("s-1", by="web", Authorization=web))[0]
    await adopted(config, "s-1")
    async with named_chain(tmp_path) as chain:
        url = f"{chain.stage}/sagas/s-1"
        for name in ("web", "order"):
            status, headers, body = await chain.compensate(
                "s-1", by=name, Authorization=shown_by(name)
            )
            assert (503, "30") == (status, headers["Retry-After"])
            assert b'"unknown"' in body and b"a person at this stage has to undo it" in body
            assert 503 == (await chain.request("GET", url, None, Authorization=shown_by(name)))[0]
        status, _, body = await chain.request("GET", url, None, Authorization=olga)
        assert 200 == status and b"web asks to compensate it" in body


async def test_without_names_a_stranger_that_was_parked_for_undoes_nothing_either(
    tmp_path: Path,
) -> None:
    """A saga without an opener was everybody's: its next automatic retry was carried out."""
    async with restored_chain(tmp_path) as world:
        world.config = replace(world.config, upstreams={"order": world.chain.order, "shop": ""})
        async with world.serving():
            assert 200 == await world.order("kept")
            await world.back_up()
        world.put_back(as_of=format_instant(time.time()))
        async with world.serving() as chain:
            assert 503 == (await chain.compensate("s-1", by="billing"))[0]
        await world.reconcile(order=LEFT_OUT, shop=LEFT_OUT, shipping=LEFT_OUT)
        world.release()
        async with world.serving() as chain:
            assert 503 == (await chain.compensate("s-1", by="billing"))[0]
            assert "lost" == (await chain.view("s-1"))["parked_cause"]
            assert (await chain.compensate("s-1", by="operator"))[0] in (200, 202)
            await chain.until("s-1", lambda view: view["state"] == "compensated")
            assert 200 == (await chain.compensate("s-1", by="billing"))[0]
