"""stage.testing: what each matcher demands, and that it says so when it does not hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stage.ports.observer import TraceContext
from stage.telemetry import names
from stage.telemetry.spans import OtelObserver
from stage.testing import SpanCollector, Spans, SpanSeen
from tests.unit.telemetry.given import an_attempt

TRACE, OTHER = "a" * 32, "b" * 32
RUN = SpanSeen(
    name="saga payment",
    kind="internal",
    trace_id=TRACE,
    span_id="1" * 16,
    attributes={names.OUTCOME: "completed"},
    began=1_000_000,
    ended=9_000_000,
    service="payment",
)
CHARGE = SpanSeen(
    name="step charge",
    kind="internal",
    trace_id=TRACE,
    span_id="2" * 16,
    parent_id="1" * 16,
    attributes={names.OUTCOME: "step_in_doubt", names.ATTEMPT: 1},
    failed=True,
    began=2_000_000,
    ended=3_000_000,
    service="payment",
)
AGAIN = replace(
    CHARGE,
    span_id="3" * 16,
    links=((TRACE, "2" * 16),),
    attributes={names.OUTCOME: "step_succeeded", names.ATTEMPT: 2},
    failed=False,
    began=4_000_000,
    ended=5_000_000,
)
SPANS = Spans([AGAIN, CHARGE, RUN])


def test_spans_are_found_by_name_and_attributes() -> None:
    """By short names, or the names in full; in the order in which they began."""
    assert ["saga payment", "step charge", "step charge"] == SPANS.names
    assert RUN == SPANS.one("saga payment")
    assert AGAIN == SPANS.one("step charge", attempt=2)
    assert CHARGE == SPANS.one("step charge", **{names.OUTCOME: "step_in_doubt"})
    assert [CHARGE, AGAIN] == SPANS.all("step charge", kind="internal", service="payment")
    assert [CHARGE, AGAIN] == SPANS.all(parent_id=RUN.span_id)
    assert (3, {TRACE}) == (len(SPANS), SPANS.trace_ids)
    assert [AGAIN] == list(SPANS.where(lambda span: bool(span.links)))
    SPANS.none("step charge", attempt=3)


def test_matchers_that_hold_can_be_chained() -> None:
    """Each gives the span back."""
    same = AGAIN.below(RUN).links_to(CHARGE).links_to_only(CHARGE).within(RUN).is_fine()
    assert AGAIN is same.has(attempt=2, outcome="step_succeeded", peer=None)
    assert CHARGE is CHARGE.is_error().links_to_only()
    SPANS.is_one_trace()
    assert [] == SPANS.strays()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: SPANS.one("step charge"),
        lambda: SPANS.one("step refund"),
        lambda: SPANS.none("step charge"),
        lambda: AGAIN.below(CHARGE),
        lambda: RUN.below(CHARGE),
        lambda: AGAIN.below(replace(RUN, trace_id=OTHER)),
        lambda: AGAIN.links_to(CHARGE, RUN),
        lambda: AGAIN.links_to(replace(CHARGE, trace_id=OTHER)),
        lambda: AGAIN.links_to_only(),
        lambda: AGAIN.links_to_only(CHARGE, RUN),
        lambda: AGAIN.has(attempt=1),
        lambda: AGAIN.has(peer="psp"),
        lambda: AGAIN.is_error(),
        lambda: CHARGE.is_fine(),
        lambda: RUN.within(AGAIN),
        lambda: Spans([]).is_one_trace(),
        lambda: Spans([RUN, replace(CHARGE, trace_id=OTHER)]).is_one_trace(),
        lambda: Spans([RUN, RUN]).is_one_trace(),
    ],
)
def test_a_broken_expectation_is_said(wrong: Callable[[], object]) -> None:
    """With the names of what it is about."""
    with pytest.raises(AssertionError, match=r"step|saga|spans"):
        wrong()


def test_a_stray_has_a_parent_that_nobody_saw() -> None:
    """The root of a trace is none; the same id in another trace is not its parent."""
    assert [AGAIN] == Spans([AGAIN]).strays()
    assert [CHARGE] == Spans([CHARGE, replace(RUN, trace_id=OTHER)]).strays()


def test_the_tree_is_a_waterfall() -> None:
    """The parent of each span, its start, its duration and its end."""
    assert (
        "saga payment    payment         0 ms       8 ms  completed\n"
        "├─ step charge  payment         1 ms       1 ms  step_in_doubt\n"
        "└─ step charge  payment         3 ms       1 ms  step_succeeded  → 1 linked"
    ) == SPANS.tree()
    assert (
        "saga payment    payment   completed\n"
        "├─ step charge  payment   step_in_doubt\n"
        "└─ step charge  payment   step_succeeded"
    ) == SPANS.tree(times=False)
    assert "(no spans)" == Spans([]).tree()


def test_any_exporter_of_the_sdk_will_do() -> None:
    """A host may have a provider and an exporter of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    OtelObserver(provider).run("s-1", "payment", TraceContext(), []).end("defect")
    span = Spans.of(exporter.get_finished_spans()).one("saga payment").is_error()
    assert ("s-1", "defect", "") == (span["saga_id"], span["outcome"], span.parent_id)


async def test_a_span_that_is_yet_to_end_can_be_waited_for() -> None:
    """And what is there instead is said when it does not."""
    spans = SpanCollector(service="payment")
    span = OtelObserver(spans.provider).attempt(an_attempt())
    waiting = asyncio.create_task(spans.until("step charge", outcome="step_succeeded"))
    await asyncio.sleep(0)
    span.end("step_succeeded")
    seen = await waiting
    assert ("payment", "psp") == (seen.service, seen["peer"])
    with pytest.raises(AssertionError, match="step charge"):
        await spans.until("step refund", seconds=0.01)
    spans.clear()
    assert 0 == len(spans)
