"""The page /metrics of a chain that was used, against the books of its neighbours."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
from aiohttp import web_app
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    DataPointT,
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricsData,
    NumberDataPoint,
)
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from stage import Saga, Stage, Tx
from stage.demo.payment import Order
from stage.inbound.aiohttp import SERVICE
from stage.outbound.breaker import FAILURES_MAX
from stage.telemetry import names
from tests.kept_port import kept_port
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.waits import until

CHARGED = {"step": "charge", "activity": "execute"}
OPEN_METRICS = "application/openmetrics-text"


class Scraped(dict[tuple[str, frozenset[tuple[str, str]]], float]):
    """Samples by name and labels."""

    def value(self, name: str, **labels: str) -> float | None:
        """One sample, None where there is none."""
        return self.get((name, frozenset(labels.items())))


async def scrape(chain: Chain) -> Scraped:
    """The page as Prometheus would read it now."""
    status, headers, body = await chain.request("GET", f"{chain.stage}/metrics")
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (status, headers["Content-Type"])
    return Scraped(
        {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
    )


async def some_sagas(chain: Chain) -> None:
    """Two that complete, one of them replayed, one refused, one whose charge is in doubt once."""
    for saga_id in ("s-1", "s-2", "s-2"):
        assert 200 == (await chain.send(saga_id))[0]
    await chain.script(chain.psp, script="refuse", times=1)
    assert 409 == (await chain.send("s-3", {**ORDER, "order_id": "o-3"}))[0]
    await chain.script(chain.psp, script="effect-then-drop")
    assert 200 == (await chain.send("s-4", {**ORDER, "order_id": "o-4"}))[0]
    await at_rest(chain)


async def at_rest(chain: Chain) -> None:
    """Return when no saga is in memory: then each end is durable, and counted."""

    async def nothing_runs() -> bool:
        return 0 == (await scrape(chain)).value("stage_runs")

    await until(nothing_runs)


async def test_it_counts_what_happened(tmp_path: Path) -> None:
    """Each once: what is replayed is not counted again."""
    async with running_chain(tmp_path) as chain:
        await some_sagas(chain)
        found = await scrape(chain)
        made, _ = await chain.charges()
    assert 4 == found.value("stage_sagas_accepted_total")
    assert 3 == found.value("stage_sagas_ended_total", outcome="completed")
    assert 1 == found.value("stage_sagas_ended_total", outcome="compensated")
    assert 0 == found.value("stage_sagas_ended_total", outcome="failed_to_compensate")
    assert 3 == found.value("stage_sagas", state="completed")
    assert 1 == found.value("stage_sagas", state="compensated")
    assert 2 == found.value("stage_attempts_total", **CHARGED, outcome="succeeded")
    assert 1 == found.value("stage_attempts_total", **CHARGED, outcome="refused")
    assert 1 == found.value("stage_attempts_total", **CHARGED, outcome="in_doubt")
    probe = {"step": "charge", "activity": "probe", "outcome": "found"}
    assert 1 == found.value("stage_attempts_total", **probe)
    assert 3 == made
    assert 3 == found.value("stage_saga_duration_seconds_count", outcome="completed")
    total = found.value("stage_attempt_duration_seconds_sum", **CHARGED, outcome="succeeded")
    assert total is not None and 0 < total < 20
    commits = found.value("stage_writer_commit_duration_seconds_count")
    units = found.value("stage_writer_batch_sum")
    assert commits and units and 4 * 2 <= commits <= units  # an end may go with what comes next
    assert 0 == found.value("stage_parked", cause="defect")
    for name in ("runs", "in_doubt", "oldest_unfinished_seconds", "due_lag_seconds"):
        assert 0 == found.value(f"stage_{name}")
    assert 1 == found.value("stage_ready")
    assert 0 == found.value("stage_breaker_open", peer="psp")


async def test_sagas_that_wait_are_counted(tmp_path: Path) -> None:
    """A saga that waits for a person, then one in the middle of a call that hangs."""
    async with running_chain(tmp_path) as chain:
        await chain.script(chain.shipping, script="refuse")
        await chain.script(chain.psp, script="refund-fails")
        await chain.send("s-1")
        await at_rest(chain)
        found = await scrape(chain)
        assert 1 == found.value("stage_parked", cause="failed_to_compensate")
        assert 1 == found.value("stage_sagas_ended_total", outcome="failed_to_compensate")
        assert 0 == found.value("stage_oldest_unfinished_seconds")
        await chain.script(chain.psp, script="hang", times=1)
        sending = asyncio.create_task(chain.send("s-2", {**ORDER, "order_id": "o-2"}))
        await chain.until("s-2", lambda view: "active" == view["state"])
        found = await scrape(chain)
        assert 1 == found.value("stage_runs")
        assert 1 == found.value("stage_sagas", state="active")
        age = found.value("stage_oldest_unfinished_seconds")
        assert age is not None and 0 < age < 10
        sending.cancel()


async def test_a_peer_that_is_left_alone_shows(tmp_path: Path) -> None:
    """After eight failures in a row nothing is sent forward to it for a while."""
    with kept_port() as port:
        nobody = {"psp": f"http://127.0.0.1:{port}"}
        async with running_chain(tmp_path, externals=nobody) as chain:
            for number in range(FAILURES_MAX):
                saga_id = f"s-{number}"
                await chain.send(saga_id, Prefer="respond-async")
                await chain.until(saga_id, lambda view: view["steps"][1]["phase"] == "waiting")
            assert 1 == (await scrape(chain)).value("stage_breaker_open", peer="psp")


async def test_every_metric_of_the_table_is_there_from_the_start(tmp_path: Path) -> None:
    """Also in OpenMetrics, where that is asked for; both can be parsed strictly."""
    async with running_chain(tmp_path) as chain:
        url = f"{chain.stage}/metrics"
        _, _, plain = await chain.request("GET", url)
        _, headers, other = await chain.request("GET", url, Accept=OPEN_METRICS)
    assert headers["Content-Type"].startswith(OPEN_METRICS)
    wanted = {names.prometheus_name(name) for name in names.METRICS}
    assert wanted <= {family.name for family in text_string_to_metric_families(plain.decode())}
    families = openmetrics.text_string_to_metric_families(other.decode())  # type: ignore[no-untyped-call]
    assert wanted <= {family.name for family in families}


async def test_an_accept_header_that_is_none_gets_plain_text(tmp_path: Path) -> None:
    """A version that is none is no defect of ours: it would wake somebody."""
    async with running_chain(tmp_path) as chain:
        for accept in (f"{OPEN_METRICS}; version=abc", 'text/plain; version="1.0.0"', ",;=,"):
            status, headers, _ = await chain.request("GET", f"{chain.stage}/metrics", Accept=accept)
            assert (200, "text/plain") == (status, headers["Content-Type"].partition(";")[0])
        found = await scrape(chain)
    assert 0 == found.value("stage_defects_total", where="request")


async def test_while_the_database_is_away_the_rest_is_shown(tmp_path: Path) -> None:
    """A watcher must see that it is not ready, and not that there are no sagas."""
    async with running_chain(tmp_path) as chain:
        await chain.send("s-1")
        (tmp_path / "payment.db").rename(tmp_path / "away.db")
        assert 503 == (await chain.send("s-2"))[0]
        found = await scrape(chain)
        (tmp_path / "away.db").rename(tmp_path / "payment.db")
    assert 0 == found.value("stage_ready")
    assert 1 == found.value("stage_sagas_accepted_total")


def points_of(collected: MetricsData) -> dict[tuple[str, frozenset[tuple[str, Any]]], DataPointT]:
    """The points that a provider collected, by name and attributes."""
    return {
        (metric.name, frozenset((point.attributes or {}).items())): point
        for resource in collected.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }


async def test_a_meter_provider_gets_the_same_numbers(tmp_path: Path) -> None:
    """`meter_provider=` of a host application: counters, gauges and distributions."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with running_chain(tmp_path, meter_provider=provider) as chain:
        await some_sagas(chain)
        await scrape(chain)  # it refreshes what is read from the database
        collected = await asyncio.to_thread(reader.get_metrics_data)
        provider.shutdown()
    assert collected is not None
    (resource,) = collected.resource_metrics
    (scope,) = resource.scope_metrics
    assert names.SCOPE == scope.scope.name
    found = {metric.name: metric for metric in scope.metrics}
    silent = {names.M_DEFECTS, names.M_DENIED, names.M_CONNECTION_WAIT}  # it is a SQLite file
    silent |= {names.M_CERTIFICATE_EXPIRY, names.M_FILES_REFUSED}  # and there is no file besides
    silent |= {names.M_APPROVALS, names.M_OLDEST_APPROVAL, names.M_APPROVAL_EXPIRY}  # none declared
    assert set(names.METRICS) - silent <= set(found)
    payment = (names.STAGE, "payment")
    points = points_of(collected)
    ended = points[names.M_SAGAS_ENDED, frozenset({payment, ("outcome", "completed")})]
    assert isinstance(ended, NumberDataPoint) and 3 == ended.value
    held = points[names.M_SAGAS, frozenset({payment, ("state", "completed")})]
    assert isinstance(held, NumberDataPoint) and 3 == held.value
    lasted = points[names.M_SAGA_DURATION, frozenset({payment, ("outcome", "completed")})]
    assert isinstance(lasted, HistogramDataPoint) and 3 == lasted.count
    bounds = names.METRICS[names.M_SAGA_DURATION].bounds
    assert bounds == tuple(lasted.explicit_bounds)
    assert "s" == found[names.M_SAGA_DURATION].unit


async def test_two_stages_of_one_process_are_apart(tmp_path: Path) -> None:
    """A host that mounts both has one provider, which takes an instrument of a name only once."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    billing: Stage[Order, Any] = Stage("billing", accepts=Order)

    @billing.transaction(compensation=None, reason="no test undoes it")
    async def book(tx: Tx, saga: Saga[Order]) -> None:
        """Nothing to write."""

    (tmp_path / "b").mkdir()
    async with (
        running_chain(tmp_path, meter_provider=provider) as first,
        running_chain(tmp_path / "b", stage=billing, meter_provider=provider) as second,
    ):
        assert 200 == (await first.send("s-1"))[0]
        for saga_id in ("s-2", "s-3"):
            assert 200 == (await second.send(saga_id))[0]
        await first.events("s-1")
        await second.events("s-3")  # the end of a saga is counted once it is written down
        collected = await asyncio.to_thread(reader.get_metrics_data)
        provider.shutdown()
    assert collected is not None
    points = points_of(collected)
    for stage, expected in (("payment", 1), ("billing", 2)):
        own = (names.STAGE, stage)
        accepted = points[names.M_SAGAS_ACCEPTED, frozenset({own})]
        assert isinstance(accepted, NumberDataPoint) and expected == accepted.value
        lasted = points[names.M_SAGA_DURATION, frozenset({own, ("outcome", "completed")})]
        assert isinstance(lasted, HistogramDataPoint) and expected == lasted.count


async def test_a_stage_that_was_closed_is_let_go_of(tmp_path: Path) -> None:
    """The provider of a host keeps each instrument as long as the process: counts are read on."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    async with running_chain(tmp_path, meter_provider=provider) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        assert chain.app is not None
        engine = ref(chain.app[SERVICE].engine)
    del chain
    web_app._cached_build_middleware.cache_clear()  # aiohttp's own, of the last thousand routes
    gc.collect()

    assert engine() is None
    collected = await asyncio.to_thread(reader.get_metrics_data)
    provider.shutdown()
    assert collected is not None
    points = points_of(collected)
    payment = (names.STAGE, "payment")
    ended = points[names.M_SAGAS_ENDED, frozenset({payment, ("outcome", "completed")})]
    assert isinstance(ended, NumberDataPoint) and 1 == ended.value
    assert names.M_READY not in {name for name, _ in points}


async def test_a_meter_that_raises_costs_a_saga_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose meter it is, is the host's affair: in the writer's thread it would end the writer."""
    struck = []

    def broken(*_: object, **__: object) -> None:
        struck.append(1)
        raise RuntimeError("a view of somebody's")

    monkeypatch.setattr(sdk.Histogram, "record", broken)
    provider = MeterProvider([InMemoryMetricReader()])
    async with running_chain(tmp_path, meter_provider=provider) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        assert 200 == (await chain.send("s-2", {**ORDER, "order_id": "o-2"}))[0]
        await at_rest(chain)
        found = await scrape(chain)
        provider.shutdown()
    assert struck
    assert 2 == found.value("stage_sagas_ended_total", outcome="completed")
