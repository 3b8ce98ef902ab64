"""One saga is one trace: the parent and the links of each span."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased

from stage.inbound.principal import STRANGER, Principal
from stage.inbound.request import Request
from stage.telemetry import names, visible
from stage.testing import SpanCollector
from tests.scenario.chain import HOST, SERVICE, Chain, running_chain
from tests.waits import HANG_SECONDS

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
OTHER = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-01"
EXECUTE = "POST /sagas"
COMPENSATE = "POST /sagas/{saga_id}/compensate"


@pytest.fixture
def spans() -> SpanCollector:
    return SpanCollector()


@pytest.fixture
async def chain(tmp_path: Path, spans: SpanCollector) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path, tracer_provider=spans.provider) as chain:
        yield chain


async def at_rest(chain: Chain) -> None:
    """Return when no saga is in memory: then every span has ended."""
    assert chain.app is not None
    engine = chain.app[SERVICE].engine
    async with asyncio.timeout(HANG_SECONDS):
        while engine.live:  # noqa: ASYNC110 - a run leaves without notice
            await asyncio.sleep(0.01)


async def test_a_saga_is_one_trace_from_the_request_to_every_peer(
    chain: Chain, spans: SpanCollector
) -> None:
    """Server, run, attempts, and a client span below each attempt that leaves: nothing more."""
    status, headers, _ = await chain.send("s-1", traceparent=PARENT)
    await at_rest(chain)
    assert 200 == status and TRACE == headers["Trace-Id"]
    spans.is_one_trace()
    assert {TRACE} == spans.trace_ids
    server = spans.one(EXECUTE, status=200, kind="server").has(saga_id="s-1").is_fine()
    assert ("server", CALLER) == (server.kind, server.parent_id)
    run = spans.one("saga payment", outcome="completed").below(server).has(saga_id="s-1")
    reserve = spans.one("step reserve", outcome="step_succeeded").below(run)
    charge = spans.one("step charge", outcome="step_succeeded").below(run)
    record = spans.one("step record", outcome="step_succeeded").below(run)
    forward = spans.one("step forward:shipping", outcome="step_succeeded").below(run)
    to_psp = spans.one("POST psp", status=201).below(charge).within(charge)
    to_shipping = spans.one(EXECUTE, peer="shipping").below(forward).within(forward)
    assert {"client"} == {to_psp.kind, to_shipping.kind}
    assert {"internal"} == {span.kind for span in (run, reserve, charge, record, forward)}
    assert [server, run, reserve, charge, to_psp, record, forward, to_shipping] == list(spans)
    assert not any(span.links for span in spans)


async def test_client_spans_follow_the_http_conventions(chain: Chain, spans: SpanCollector) -> None:
    """Method, address, code, and a template where the path is ours (stable since 1.23)."""
    await chain.send("s-1")
    await at_rest(chain)
    to_shipping = spans.one(EXECUTE, peer="shipping")
    assert {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": HOST,
        "server.port": int(chain.shipping.rpartition(":")[2]),
        "url.full": f"{chain.shipping}/sagas",
        "url.template": "/sagas",
        names.PEER: "shipping",
    } == to_shipping.attributes
    may_have = {name for name, spans in visible.SPAN_ATTRIBUTES.items() if "client" in spans}
    assert may_have >= set(to_shipping.attributes)


async def test_a_peer_stands_below_the_client_span_that_reached_it(
    chain: Chain, spans: SpanCollector
) -> None:
    """A request of ours carries the id of its client span, and the trace of the saga."""
    await chain.send("s-1", traceparent=PARENT, tracestate="foo=1")
    await at_rest(chain)
    (charge,) = (await chain.get(f"{chain.psp}/charges"))["charges"]
    (seen,) = charge["seen"]
    assert f"00-{TRACE}-{spans.one('POST psp').span_id}-01" == seen["traceparent"]


async def test_the_compensations_of_a_refusal_link_to_the_attempts_they_undo(
    chain: Chain, spans: SpanCollector
) -> None:
    """Each compensation links to the attempt it undoes, transactions too (rule 23)."""
    await chain.script(chain.shipping, script="refuse")
    status, _, _ = await chain.send("s-1", traceparent=PARENT)
    await at_rest(chain)
    assert 409 == status
    spans.is_one_trace()
    server = spans.one(EXECUTE, status=409, kind="server").is_fine()
    run = spans.one("saga payment", outcome="compensated").below(server).links_to_only()
    for step in ("reserve", "charge"):
        undone = spans.one(f"compensate {step}", outcome="compensation_succeeded").below(run)
        undone.links_to_only(spans.one(f"step {step}"))
    spans.one("step forward:shipping", outcome="step_refused").is_fine()
    spans.one("POST psp", status=200).below(spans.one("compensate charge"))


async def test_a_doubt_is_settled_by_a_probe_that_links_to_it(
    chain: Chain, spans: SpanCollector
) -> None:
    """The attempt in doubt is an error; the probe that settled it is not, and links to it."""
    await chain.script(chain.psp, script="effect-then-drop")
    status, _, _ = await chain.send("s-1", traceparent=PARENT)
    await at_rest(chain)
    assert 200 == status
    doubt = spans.one("step charge", outcome="step_in_doubt").is_error()
    spans.one("POST psp", error="broken").below(doubt).is_error()
    probe = spans.one("probe charge", outcome="probe_found").links_to_only(doubt).is_fine()
    spans.one("GET psp", status=200).below(probe)
    spans.is_one_trace()


async def test_a_repeat_links_to_the_attempt_before_it(chain: Chain, spans: SpanCollector) -> None:
    """Attempt after attempt."""
    await chain.script(chain.shipping, script="crash-answer")
    status, _, _ = await chain.send("s-1")
    await at_rest(chain)
    assert 200 == status
    first = spans.one("step forward:shipping", attempt=1).is_error()
    spans.one("step forward:shipping", attempt=2).links_to_only(first).is_fine()


async def test_a_late_failure_is_undone_in_the_trace_of_the_saga(
    chain: Chain, spans: SpanCollector
) -> None:
    """The run that undoes is a new span of the same trace; it links to all that it undoes, and to
    the request that asked for it."""
    await chain.send("s-1", traceparent=PARENT)
    await at_rest(chain)
    await chain.request(
        "POST",
        f"{chain.stage}/sagas/s-1/compensate",
        b'{"requested_by": "shipping", "reason": "lost"}',
        traceparent=OTHER,
    )
    await chain.until("s-1", lambda view: view["told_upstream"] == "delivered")
    await at_rest(chain)
    executed = spans.one("saga payment", outcome="completed")
    asked = spans.one(COMPENSATE, status=202, kind="server")
    assert OTHER[3:35] == asked.trace_id
    undoing = spans.one("saga payment", outcome="compensated")
    assert (executed.trace_id, executed.parent_id) == (undoing.trace_id, undoing.parent_id)
    steps = [spans.one(f"step {s}") for s in ("reserve", "charge", "record", "forward:shipping")]
    undoing.links_to_only(*steps, asked)
    spans.one("compensate forward:shipping").below(undoing).links_to_only(steps[3])
    spans.one("compensate charge").below(undoing).links_to_only(steps[1])
    notified = spans.one("tell order", outcome="tell_delivered").below(undoing)
    spans.one(COMPENSATE, peer="order").below(notified)
    server = spans.one(EXECUTE, kind="server")
    assert (server.trace_id, server.span_id) in asked.links  # the other way round as well


async def test_a_duplicate_makes_a_server_span_and_no_more(
    chain: Chain, spans: SpanCollector
) -> None:
    """Nothing is reported twice; one that came in another trace links to that of the saga."""
    await chain.send("s-1", traceparent=PARENT)
    await at_rest(chain)
    before = len(spans)
    await chain.send("s-1", traceparent=OTHER)
    await at_rest(chain)
    assert before + 1 == len(spans)
    first = spans.one(EXECUTE, kind="server", trace_id=TRACE)
    again = spans.one(EXECUTE, kind="server", trace_id=OTHER[3:35])
    assert () == first.links
    again.links_to_only(first)


async def test_the_sampling_decision_is_kept_for_the_undo(tmp_path: Path) -> None:
    """An unsampled saga is compensated unsampled, also for a sampled request (rule 23)."""
    spans = SpanCollector(ParentBased(ALWAYS_ON))
    async with running_chain(tmp_path, tracer_provider=spans.provider) as chain:
        await chain.send("s-1", traceparent=PARENT[:-2] + "00")
        await at_rest(chain)
        assert 0 == len(spans)
        await chain.compensate("s-1")
        await at_rest(chain)
        # The request was sampled; the saga is not, and neither are its own requests.
        assert [COMPENSATE] == spans.names
        (charge,) = (await chain.get(f"{chain.psp}/charges"))["charges"]
        left = [seen["traceparent"].split("-") for seen in charge["seen"]]
        assert [(TRACE, "00"), (TRACE, "00")] == [(part[1], part[3]) for part in left]


class Strangers:
    """Callers of whom nobody is known."""

    async def identify(self, request: Request) -> Principal:
        """See `inbound.caller.Callers`."""
        return STRANGER


async def test_a_trace_that_is_not_to_be_joined_is_linked(
    chain: Chain, spans: SpanCollector
) -> None:
    """An unknown caller does not write into the trace of another; the refusal has its own."""
    assert chain.app is not None
    edge = chain.app[SERVICE]
    chain.app._state[SERVICE] = replace(edge, callers=Strangers())
    status, headers, _ = await chain.send("s-1", traceparent=PARENT)
    assert 401 == status
    server = spans.one(EXECUTE, kind="server")
    assert ("", ((TRACE, CALLER),)) == (server.parent_id, server.links)
    assert TRACE not in spans.trace_ids and headers["Trace-Id"] == server.trace_id
