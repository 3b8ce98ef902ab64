"""An effect by a vendor's SDK: durable intent, doubt, probe, repeat, undo, restart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from stage import Pending, Refused, Saga, Stage
from stage.bootstrap import build_app
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import Order
from stage.ports.connection import Connection
from tests.scenario.chain import running_chain


class Vendor:
    """The SDK of a vendor: it keeps objects by key."""

    def __init__(self) -> None:
        self.objects: dict[str, int] = {}
        self.puts = 0
        self.answers = "well"
        self.entered = asyncio.Event()

    async def put(self, key: str) -> str:
        """Make the object, once under a key."""
        self.puts += 1
        if self.answers == "refuses":
            raise Refused("the bucket is closed")
        self.objects.setdefault(key, len(self.objects) + 1)
        self.entered.set()
        if self.answers == "hangs":
            await asyncio.Event().wait()
        if self.answers == "breaks":
            raise OSError("the connection broke")
        if self.answers == "later":
            raise Pending("replicating")
        return f"object-{self.objects[key]}"


def stage_of(vendor: Vendor, *, probe: bool = True, **rules: Any) -> Stage[Order, Any]:
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.effect(to="s3", **{"timeout": 5.0, **rules})
    async def upload(saga: Saga[Order]) -> str:
        return await vendor.put(saga.key)

    if probe:

        @upload.probe
        async def find(saga: Saga[Order]) -> str | None:
            found = vendor.objects.get(saga.key)
            return None if found is None else f"object-{found}"

    @upload.compensation
    async def remove(saga: Saga[Order], made: str | None) -> None:
        vendor.objects.pop(saga.key_of(upload), None)

    return stage


async def test_an_effect_runs_once_and_is_undone(tmp_path: Path) -> None:
    """No external API of that name is configured: its system needs no URL."""
    vendor = Vendor()
    async with running_chain(tmp_path, stage=stage_of(vendor)) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        step = (await chain.view("s-1"))["steps"][0]
        assert ("effect", "s3", "stands") == (step["kind"], step["peer"], step["standing"])
        assert list(vendor.objects) == [step["key"]]

        assert 200 == (await chain.compensate("s-1"))[0]
        assert ({}, 1) == (vendor.objects, vendor.puts)


async def test_a_lost_answer_is_probed_and_the_effect_not_repeated(tmp_path: Path) -> None:
    """The SDK raised what it raises when a connection breaks."""
    vendor = Vendor()
    vendor.answers = "breaks"
    async with running_chain(tmp_path, stage=stage_of(vendor)) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        assert {"step_in_doubt", "probe_found"} <= set(await chain.events("s-1"))
        assert (1, 1) == (len(vendor.objects), vendor.puts)


async def test_a_time_out_is_in_doubt_and_no_defect(tmp_path: Path) -> None:
    """Nobody sees what had left by then."""
    vendor = Vendor()
    vendor.answers = "hangs"
    async with running_chain(tmp_path, stage=stage_of(vendor, timeout=0.05)) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        assert {"step_in_doubt", "probe_found"} <= set(await chain.events("s-1"))
        assert (1, 1) == (len(vendor.objects), vendor.puts)


async def test_without_a_probe_it_is_repeated_under_the_same_key(tmp_path: Path) -> None:
    """To be idempotent under it is the author's promise."""
    vendor = Vendor()
    vendor.answers = "hangs"
    stage = stage_of(vendor, probe=False, timeout=0.05, attempts_max=2)
    async with running_chain(tmp_path, stage=stage) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert ({}, 2) == (vendor.objects, vendor.puts)


async def test_an_effect_without_keys_is_never_repeated_in_doubt(tmp_path: Path) -> None:
    """It waits for a person, who can settle it."""
    vendor = Vendor()
    vendor.answers = "breaks"
    stage = stage_of(vendor, probe=False, idempotent=False)
    async with running_chain(tmp_path, stage=stage) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        view = await chain.until("s-1", lambda saga: saga["parked"])
        assert ("in_doubt", 1) == (view["parked_cause"], vendor.puts)


async def test_a_business_no_of_an_effect_leaves_nothing_to_undo(tmp_path: Path) -> None:
    """The author's word is certain."""
    vendor = Vendor()
    vendor.answers = "refuses"
    async with running_chain(tmp_path, stage=stage_of(vendor)) as chain:
        assert 409 == (await chain.send("s-1"))[0]
        assert "compensation_started" not in await chain.events("s-1")


async def test_a_pending_effect_is_probed_until_it_ends(tmp_path: Path) -> None:
    """Upstream is answered 202 meanwhile."""
    vendor = Vendor()
    vendor.answers = "later"
    async with running_chain(tmp_path, stage=stage_of(vendor)) as chain:
        assert 202 == (await chain.send("s-1"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert 1 == vendor.puts


async def test_an_effect_that_was_cut_off_is_looked_for_by_the_next_process(
    tmp_path: Path,
) -> None:
    """Its intent was durable before the first line ran."""
    vendor = Vendor()
    vendor.answers = "hangs"
    async with running_chain(tmp_path, stage=stage_of(vendor)) as chain:
        sent = asyncio.create_task(chain.send("s-1", Prefer="respond-async, wait=0"))
        await vendor.entered.wait()
        assert "step_started" in await chain.events("s-1")
        assert 202 == (await sent)[0]
    vendor.answers = "well"
    async with running_chain(tmp_path, stage=stage_of(vendor)) as chain:
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert (1, 1) == (len(vendor.objects), vendor.puts)


async def test_a_table_without_a_url_limits_an_effect_and_serves_no_call(tmp_path: Path) -> None:
    """The pages and pauses know it as externals.s3."""
    vendor = Vendor()
    externals: dict[str, str | Connection] = {"s3": Connection(concurrency_max=3)}
    async with running_chain(tmp_path, stage=stage_of(vendor), externals=externals) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        (peer,) = [
            each
            for each in (await chain.get(f"{chain.stage}/peers"))["peers"]
            if each["peer"] == "externals.s3"
        ]
        assert 3 == peer["places_max"]

    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="s3", compensation=None, reason="none")
    async def charge(http: Any, saga: Saga[Order]) -> None: ...

    config = Config(
        service_name="payment",
        auth="none",
        database=f"sqlite:///{tmp_path / 'other.db'}",
        externals=externals,
    )
    with pytest.raises(ConfigurationError, match="calls s3"):
        build_app(stage, config)
