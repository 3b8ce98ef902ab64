"""A restored shard asks its neighbours, who list the sagas of all shards (docs/scale.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer

from stage.bootstrap import build_app
from stage.demo.payment import payment
from tests.forked import Done, stage
from tests.scenario.chain import HOST, Chain
from tests.scenario.restored import RestoredChain, restored_chain
from tests.scenario.test_reconcile import lose

pytestmark = pytest.mark.blocking


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[RestoredChain]:
    async with restored_chain(tmp_path) as running:
        yield running


@asynccontextmanager
async def other_shard(world: RestoredChain, folder: Path) -> AsyncIterator[Chain]:
    """Another shard is up within, with a database of its own."""
    config = replace(world.config, database=f"sqlite:///{folder / 'other.db'}")
    async with TestServer(build_app(payment, config), host=HOST) as server:
        here = world.chain
        urls = {"order": here.order, "shipping": here.shipping, "psp": here.psp}
        there = f"http://{HOST}:{server.port}"
        yield Chain(here.session, {**urls, "payment": there})


async def reconcile(world: RestoredChain, *beside: str) -> Done:
    """`stage reconcile` of the shard that is stopped."""
    config = world.config
    return await asyncio.to_thread(
        stage,
        *("reconcile", "stage.demo.payment:payment", "--database", config.database),
        *("--upstream", f"order={config.upstreams['order']}"),
        *("--downstream", f"shipping={config.downstreams['shipping']}"),
        *(word for url in beside for word in ("--beside", url)),
    )


async def test_the_sagas_of_other_shards_are_not_lost(world: RestoredChain, tmp_path: Path) -> None:
    """s-1 is taken over and s-2 is not; nor where somebody asked for it at the wrong shard."""
    await lose(world, "s-1", "s-2", "s-3")
    async with other_shard(world, tmp_path) as other:
        for saga_id in ("s-2", "s-3"):
            assert 200 == (await other.send(saga_id))[0]
        async with world.serving() as chain:
            assert 503 == (await chain.compensate("s-3", by="operator"))[0]
        done = await reconcile(world, other.stage)
        assert 0 == done.status, done
        assert "2 sagas that are not here are at another shard" in done.out
        assert "s-1" in done.out and "s-2" not in done.out
        assert "s-3 was asked to be compensated here, and is not of this database" in done.out
        assert "--give-up s-3=REASON" in done.out
    async with world.serving() as chain:
        assert "lost" == (await chain.view("s-1"))["parked_cause"]
        for saga_id in ("s-2", "s-3"):
            assert 503 == (await chain.request("GET", f"{chain.stage}/sagas/{saga_id}"))[0]
        assert (4, 4) == await chain.charges()


async def test_nothing_is_taken_over_while_a_shard_does_not_say(
    world: RestoredChain, tmp_path: Path
) -> None:
    """It is away, or another stage, which has the saga too and would hide it."""
    await lose(world, "s-1")
    away = await reconcile(world, "http://127.0.0.1:9")
    assert 2 == away.status and "cannot be reached" in away.err
    foreign = await reconcile(world, world.chain.order)
    assert 0 != foreign.status and f"option --beside: {world.chain.order}" in foreign.err
    async with other_shard(world, tmp_path) as other:
        done = await reconcile(world, f"{other.stage}/elsewhere")
        assert 0 != done.status, done
    assert ["s-1"] == [lost.id for lost in (await world.reconcile(dry_run=True)).lost]
