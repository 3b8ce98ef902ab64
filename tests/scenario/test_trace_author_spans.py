"""Spans that an author starts are children of the step they are started in, wherever that runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Tracer

from stage import Http, Refused, Saga, Stage, Tx
from stage.demo.payment import Charge, Order
from stage.ports.observer import TraceContext
from stage.telemetry.fast.spans import FastProvider, FastSpan
from stage.telemetry.id_generator import StageIdGenerator
from stage.telemetry.spans import OtelObserver, RecordedSpan
from stage.testing import SpanCollector
from tests.scenario.chain import SERVICE, Chain, running_chain
from tests.waits import HANG_SECONDS

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
STORES = ["file", "memory"]


def by_the_sdk() -> SpanCollector:
    spans = SpanCollector()
    made = OtelObserver(spans.provider).run("s-0", "p", TraceContext(), [])
    assert isinstance(made, RecordedSpan)
    return spans


def by_the_fast_provider() -> SpanCollector:
    """The provider of `stage serve`."""
    spans = SpanCollector()
    spans.provider = FastProvider(shutdown_on_exit=False, id_generator=StageIdGenerator())
    spans.provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    made = OtelObserver(spans.provider).run("s-0", "p", TraceContext(), [])
    assert isinstance(made, FastSpan)
    return spans


@pytest.fixture(params=[by_the_sdk, by_the_fast_provider])
def spans(request: pytest.FixtureRequest) -> SpanCollector:
    made: SpanCollector = request.param()
    return made


# Long because every sort of function has a span of its own.
def traced(tracer: Tracer) -> Stage[Order, Charge]:
    """A stage whose every function has a span of its own around what it does."""
    stage = Stage("payment", accepts=Order, adds=Charge)
    span = tracer.start_as_current_span

    @stage.transaction
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        with span("my reserve"):
            await tx.fetchone("SELECT 1")
            with span("my inner"):
                await tx.fetchone("SELECT 2")

    @reserve.compensation
    async def release(tx: Tx, saga: Saga[Order]) -> None:
        with span("my release"):
            await tx.fetchone("SELECT 3")

    @stage.call(to="psp", timeout=1.0)
    async def charge(http: Http, saga: Saga[Order]) -> Charge:
        with span("my before"):
            amount = saga.input.amount
        with span("my around"):
            answer = await http.post("/charges", json={"amount": amount})
        with span("my after"):
            await asyncio.sleep(0)
            await asyncio.create_task(in_a_task())
        return Charge(answer.json()["id"])

    async def in_a_task() -> None:
        with span("my task"):
            await asyncio.sleep(0)

    @charge.probe
    async def find_charge(http: Http, saga: Saga[Order]) -> Charge | None:
        with span("my probe"):
            answer = await http.get(f"/charges/by-key/{saga.key}")
        return None if answer.status == 404 else Charge(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: Charge | None) -> None:
        with span("my refund"):
            await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": None})

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def check(http: Http, saga: Saga[Order]) -> None:
        await asyncio.sleep(0)  # not ours: the function is run anew in the event loop
        with span("my check"):
            await http.get("/charges")

    @stage.output
    def charged(saga: Saga[Order]) -> Charge:
        with span("my output"):
            return saga.result(charge)

    return stage


@asynccontextmanager
async def chain_of(
    folder: Path, spans: SpanCollector, stage: Stage[Any, Any], store: str = "file"
) -> AsyncIterator[Chain]:
    options: dict[str, Any] = {"database": "sqlite:///:memory:"} if store == "memory" else {}
    async with running_chain(
        folder, stage=stage, tracer_provider=spans.provider, **options
    ) as chain:
        yield chain
        assert chain.app is not None
        async with asyncio.timeout(HANG_SECONDS):
            while chain.app[SERVICE].engine.live:  # noqa: ASYNC110 - a run leaves without notice
                await asyncio.sleep(0.01)


def tracer_of(spans: SpanCollector) -> Tracer:
    return spans.provider.get_tracer("author")


@pytest.mark.parametrize("store", STORES)
async def test_spans_of_a_saga_that_goes_forward(
    tmp_path: Path, spans: SpanCollector, store: str
) -> None:
    """Transaction, call (before, around and after its requests, and in a task), output."""
    async with chain_of(tmp_path, spans, traced(tracer_of(spans)), store) as chain:
        status, _, body = await chain.send("s-1", traceparent=PARENT)
        assert 200 == status, body
    spans.is_one_trace()
    assert {TRACE} == spans.trace_ids
    reserve, charge = spans.one("step reserve"), spans.one("step charge")
    spans.one("my inner").below(spans.one("my reserve").below(reserve))
    for name in ("my before", "my around", "my after"):
        spans.one(name).below(charge).within(charge)
    spans.one("my task").below(spans.one("my after"))
    spans.one("my check").below(spans.one("step check"))
    # Asked for once: the answer has what went downstream.
    spans.one("my output").below(spans.one("step forward:shipping"))


@pytest.mark.parametrize("store", STORES)
async def test_spans_of_a_saga_that_goes_back(
    tmp_path: Path, spans: SpanCollector, store: str
) -> None:
    """The compensations of a transaction and of a call."""
    async with chain_of(tmp_path, spans, traced(tracer_of(spans)), store) as chain:
        await chain.script(chain.shipping, script="refuse")
        status, _, body = await chain.send("s-1", traceparent=PARENT)
        assert 409 == status, body
    assert {TRACE} == spans.trace_ids
    spans.one("my release").below(spans.one("compensate reserve"))
    spans.one("my refund").below(spans.one("compensate charge"))


async def test_spans_of_a_doubt(
    tmp_path: Path, spans: SpanCollector, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe; and the span that was open around the lost request ends with its attempt."""
    async with chain_of(tmp_path, spans, traced(tracer_of(spans))) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        with caplog.at_level(logging.ERROR, "opentelemetry"):
            status, _, body = await chain.send("s-1", traceparent=PARENT)
        assert 200 == status, body
    assert {TRACE} == spans.trace_ids
    spans.one("my around").below(spans.one("step charge", outcome="step_in_doubt"))
    spans.one("my probe").below(spans.one("probe charge"))
    # OpenTelemetry logs a span that is left in another context.
    assert [] == [each for each in caplog.records if each.name.startswith("opentelemetry")]


async def test_each_attempt_has_the_spans_of_its_own_functions(
    tmp_path: Path, spans: SpanCollector
) -> None:
    """Sagas that run at the same time share a writer and an event loop, and no span."""
    async with chain_of(tmp_path, spans, traced(tracer_of(spans))) as chain:
        answers = await asyncio.gather(*(chain.send(f"s-{number}") for number in range(8)))
        assert {200} == {status for status, _, _ in answers}
    for step, mine in (("reserve", "my reserve"), ("charge", "my around"), ("charge", "my after")):
        steps = {span.span_id: span.trace_id for span in spans.all(f"step {step}")}
        assert 8 == len(steps)
        assert steps == {span.parent_id: span.trace_id for span in spans.all(mine)}


async def test_an_unsampled_saga_has_no_spans_of_the_author(
    tmp_path: Path, spans: SpanCollector
) -> None:
    """The decision of the trace holds for them too."""
    async with chain_of(tmp_path, spans, traced(tracer_of(spans))) as chain:
        status, _, _ = await chain.send("s-1", traceparent=PARENT[:-2] + "00")
        assert 200 == status
    assert 0 == len(spans)


async def test_a_function_cannot_write_into_the_span_of_its_step(
    tmp_path: Path, spans: SpanCollector
) -> None:
    """It may read the ids of the current span; to end or to change it does nothing."""
    stage = Stage[Order, Any]("payment", accepts=Order)
    seen: list[str] = []

    @stage.transaction(compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        current = otel.get_current_span()
        seen.append(f"{current.get_span_context().span_id:016x}")
        current.set_attribute("mine", 1)
        current.end()

    async with chain_of(tmp_path, spans, stage) as chain:
        status, _, _ = await chain.send("s-1")
        assert 200 == status
    step = spans.one("step reserve", outcome="step_succeeded")
    assert [step.span_id] == seen
    assert step["mine"] is None


@pytest.mark.parametrize("ends", [Refused("no"), ValueError("slip"), KeyboardInterrupt()])
async def test_a_function_that_raises_has_its_spans_below_its_step(
    tmp_path: Path, spans: SpanCollector, ends: BaseException
) -> None:
    """For any exception, and for the next saga in the same writer thread too."""
    stage = Stage[Order, Any]("payment", accepts=Order)
    tracer = tracer_of(spans)

    @stage.transaction(attempts_max=1, compensation=None, reason="no test undoes it")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        with tracer.start_as_current_span("my reserve"):
            raise ends

    async with chain_of(tmp_path, spans, stage) as chain:
        for saga_id in ("s-1", "s-2"):
            await chain.send(saga_id)
    for span in spans.all("my reserve"):
        (step,) = [each for each in spans.all("step reserve") if each.trace_id == span.trace_id]
        span.below(step)
    assert 2 == len(spans.all("my reserve"))
