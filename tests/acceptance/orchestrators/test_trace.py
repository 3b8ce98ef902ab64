"""One trace over workflow, activity, stage, external API and compensation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from temporalio.client import Client
from temporalio.contrib.opentelemetry import TracingInterceptor

from examples.temporal.processes import NoServer, TemporalServer, Worker, chain_file, program
from stage.demo.chain import LOOPBACK, free_ports, url
from stage.orchestrators.temporal.client import Chain, end_of
from stage.testing import SpanCollector, Spans
from tests.acceptance.collector import Collector
from tests.acceptance.orchestrators.parts import DONE, ORDER, STAGES, UNDONE, Parts

LATE_SECONDS = 1.0


async def test_one_trace_from_the_caller_to_the_last_undo(tmp_path: Path) -> None:
    """shipping fails late: its request comes through the door and joins the trace of the saga."""
    try:
        program()
    except NoServer as error:
        pytest.skip(str(error))
    collector = Collector()
    caller = SpanCollector(service="caller")
    async with TestServer(collector.app) as otlp:
        where = str(otlp.make_url("")).rstrip("/")
        (port,) = free_ports(1)
        parts = Parts(tmp_path, caller="temporal", door=url(port), otlp=where)
        server = TemporalServer(tmp_path)
        door = f"{LOOPBACK}:{port}"
        file = chain_file(tmp_path, server.address, parts.urls(), door=door, otlp=where)
        worker = Worker(file)
        try:
            await asyncio.gather(server.start(), parts.start())
            await worker.start()
            await run(parts, server, caller)
        finally:
            await worker.stop()
            await parts.stop()
            await server.kill()
    check(Spans([*caller, *collector]))


async def run(parts: Parts, server: TemporalServer, caller: SpanCollector) -> None:
    """One saga that is executed, and whose tail fails a second later."""
    tracing = TracingInterceptor(caller.provider.get_tracer("caller"))
    client = await Client.connect(server.address, interceptors=[tracing])
    chain = Chain(client, STAGES, task_queue="sagas")
    script = {"script": "late-failure", "seconds": LATE_SECONDS}
    await parts.client.script(parts.shipping, script)
    with caller.provider.get_tracer("caller").start_as_current_span("order"):
        handle = await chain.start("x-1", ORDER)
    assert "executed" == (await end_of(handle)).outcome
    assert DONE == await parts.books("x-1")
    await parts.until("x-1", UNDONE)
    assert "compensated" == (await end_of(chain.find("x-1"))).outcome


def check(spans: Spans) -> None:
    """The way forward and the way back, each below the one before, in one trace."""
    of_saga = Spans(spans.where(lambda span: span.trace_id == spans.one("order").trace_id))
    start = of_saga.one("StartWorkflow:saga_chain").below(of_saga.one("order"))
    assert 2 == len(of_saga.all("RunActivity:execute_stage"))
    first = of_saga.one("POST /sagas", service="payment", kind="server")
    activities = {span.span_id for span in of_saga.all("RunActivity:execute_stage")}
    assert first.parent_id in activities
    of_saga.one("POST /charges", service="psp").below(of_saga.one("POST psp", status=201))
    assert of_saga.one("POST /sagas", service="shipping").parent_id in activities
    asked = of_saga.one("POST /sagas/{saga_id}/compensate", service="shipping", kind="client")
    again = of_saga.one("SignalWithStartWorkflow:saga_chain").below(asked)
    undo = of_saga.one("RunActivity:compensate_stage")
    of_saga.one("POST /sagas/{saga_id}/compensate", service="payment").below(undo)
    of_saga.one("POST /refunds", service="psp").below(of_saga.one("POST psp", status=200))
    assert start.span_id != again.span_id
