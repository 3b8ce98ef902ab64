"""The trace of a saga over the loss of its process, and over a database that loses its units."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stage.core.errors import StoreUnavailable
from stage.demo import psp
from stage.neighbours.downstream.app import make_app as make_downstream
from stage.ports.store import Unit
from stage.store.memory import MemoryStore
from stage.telemetry import names
from stage.testing import SpanCollector, Spans
from tests.scenario.chain import HOST, Chain, running_chain
from tests.scenario.test_tracing import EXECUTE, PARENT, TRACE, at_rest

T = TypeVar("T")


async def struck_and_recovered(folder: Path, provider: TracerProvider) -> list[str]:
    """A saga whose process stops while the charge is out; the span ids in its journal."""
    async with TestServer(psp.make_app(), host=HOST) as api:
        options: dict[str, Any] = {
            "externals": {"psp": f"http://{HOST}:{api.port}"},
            "drain_seconds": 0.0,
            "tracer_provider": provider,
        }
        async with running_chain(folder, **options) as chain:
            chain.psp = options["externals"]["psp"]
            await chain.script(chain.psp, script="effect-then-hang")
            status, _, _ = await chain.send("s-1", traceparent=PARENT, Prefer="respond-async")
            assert 202 == status
            await chain.until_charged()
            before = await chain.events("s-1")
            assert "step_started" == before[-1]  # struck where it hurts
        async with running_chain(folder, **options) as chain:
            await chain.until("s-1", lambda view: view["state"] == "completed")
            await at_rest(chain)
            return await spans_stored(chain)


async def spans_stored(chain: Chain) -> list[str]:
    view = await chain.get(f"{chain.stage}/sagas/s-1?view=journal")
    return [entry["span"] for entry in view["entries"] if entry.get("span")]


async def test_an_attempt_that_a_crash_cut_is_reported_by_the_recovery(tmp_path: Path) -> None:
    """Under the id that was stored before it left, once; the probe links to it (rule 23)."""
    spans = SpanCollector()
    stored = await struck_and_recovered(tmp_path, spans.provider)
    saga = spans.where(lambda span: span.trace_id == TRACE).is_one_trace()
    cut = saga.one("step charge").has(outcome=names.CUT_OFF, attempt=1, peer="psp").is_error()
    assert cut.span_id in stored
    server = saga.one(EXECUTE, status=202)
    cut.below(server)
    recovered = saga.one("saga payment", outcome="completed").below(server).links_to(cut)
    saga.one("probe charge", outcome="probe_found").below(recovered).links_to_only(cut)
    saga.one("step reserve")
    assert cut.ended <= recovered.ended and cut.began < cut.ended
    # Every span that the journal names was reported, and every link leads to a span.
    assert set(stored) <= {span.span_id for span in saga}
    known = {(span.trace_id, span.span_id) for span in saga}
    assert {link for span in saga for link in span.links} <= known


async def test_a_provider_of_somebody_else_reports_no_invented_span(tmp_path: Path) -> None:
    """Where the id of a span cannot be set the link remains, and no span is invented."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    stored = await struck_and_recovered(tmp_path, provider)
    spans = Spans.of(exporter.get_finished_spans())
    spans.none("step charge")
    (link,) = spans.one("probe charge").links
    assert TRACE == link[0] and link[1] in stored


class Losing(MemoryStore):
    """Loses the units that have these numbers: they run, and are undone."""

    lost: frozenset[int] = frozenset()
    units = 0

    async def transact(
        self, work: Callable[[Unit], Awaitable[T]], *, deferrable: bool = False
    ) -> T:
        number, self.units = self.units, self.units + 1

        async def lose(unit: Unit) -> T:
            await work(unit)
            raise StoreUnavailable("lost: nothing was written")

        return await super().transact(lose if number in self.lost else work)


@pytest.mark.parametrize("lost", range(1, 4))
async def test_a_unit_that_was_rolled_back_and_repeated_is_reported_once(
    lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that is lost runs again: its spans are those of the run that became durable."""
    stores: list[Losing] = []

    def losing(stage: Any, *_: Any) -> Losing:
        from stage.bootstrap.database import migration_folders

        stores.append(Losing(migrations=migration_folders(stage)))
        return stores[-1]

    monkeypatch.setattr("stage.bootstrap.wiring.make_store", losing)
    spans = SpanCollector()
    async with running_chain(tmp_path, tracer_provider=spans.provider) as chain:
        await asyncio.sleep(0)  # the tidying of the start is the first unit
        (store,) = stores
        store.lost = frozenset({store.units + lost - 1})
        for _ in range(3):
            status, _, _ = await chain.send("s-1", traceparent=PARENT)
            if status == 200:
                break
        assert 200 == status
        await at_rest(chain)
        stored = await spans_stored(chain)
    assert store.units > max(store.lost)  # it struck
    saga = spans.where(lambda span: span.trace_id == TRACE and span.kind == "internal")
    saga.is_one_trace()
    assert [
        "saga payment",
        "step reserve",
        "step charge",
        "step record",
        "step forward:shipping",
    ] == saga.names
    assert set(stored) == {span.span_id for span in saga if span.name != "saga payment"}


async def test_baggage_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    """Allowed members are stored with the saga, for its compensation too."""
    seen: list[str | None] = []

    async def take(request: web.Request) -> web.Response:
        seen.append(request.headers.get("baggage"))
        return web.json_response({"id": "c-1", "refunded": 1})

    api = web.Application()
    api.router.add_post("/{tail:.*}", take)
    # A downstream of its own: one that begins with empty books cannot say that nothing stands.
    downstream = make_downstream(name="shipping", upstream=f"http://{HOST}:9")
    async with TestServer(api, host=HOST) as charges, TestServer(downstream, host=HOST) as shipping:
        options: dict[str, Any] = {
            "externals": {"psp": f"http://{HOST}:{charges.port}"},
            "downstreams": {"shipping": f"http://{HOST}:{shipping.port}"},
            "baggage_keys": "tenant",
        }
        async with running_chain(tmp_path, **options) as chain:
            await chain.send("s-1", baggage="tenant=a,user=kim")
        async with running_chain(tmp_path, **options) as chain:
            await chain.compensate("s-1")
    assert ["tenant=a", "tenant=a"] == seen
