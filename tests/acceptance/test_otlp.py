"""`stage demo --otlp`: what its processes send to a collector, story by story and span by span."""

from __future__ import annotations

import asyncio
import itertools
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from stage.testing import Spans
from tests.acceptance.collector import Collector

SERVICES = {"demo", "order", "payment", "psp", "shipping"}
COMPENSATE = "POST /sagas/{saga_id}/compensate"

COMPLETED = """\
story completed                       demo
└─ POST /orders                       order     200
   └─ POST /sagas                     order     200
      └─ POST /sagas                  payment   200
         └─ saga payment              payment   completed
            ├─ step reserve           payment   step_succeeded
            ├─ step charge            payment   step_succeeded
            │  └─ POST psp            payment   201
            │     └─ POST /charges    psp       201
            ├─ step record            payment   step_succeeded
            └─ step forward:shipping  payment   step_succeeded
               └─ POST /sagas         payment   200
                  └─ POST /sagas      shipping  200"""

REFUSED = """\
story refused                         demo
└─ POST /orders                       order     409
   └─ POST /sagas                     order     409
      └─ POST /sagas                  payment   409
         └─ saga payment              payment   compensated
            ├─ step reserve           payment   step_succeeded
            ├─ step charge            payment   step_succeeded
            │  └─ POST psp            payment   201
            │     └─ POST /charges    psp       201
            ├─ step record            payment   step_succeeded
            ├─ step forward:shipping  payment   step_refused
            │  └─ POST /sagas         payment   409
            │     └─ POST /sagas      shipping  409
            ├─ compensate charge      payment   compensation_succeeded
            │  └─ POST psp            payment   200
            │     └─ POST /refunds    psp       200
            └─ compensate reserve     payment   compensation_succeeded"""

IN_DOUBT = """\
story in-doubt                                  demo
└─ POST /orders                                 order     200
   └─ POST /sagas                               order     200
      └─ POST /sagas                            payment   200
         └─ saga payment                        payment   completed
            ├─ step reserve                     payment   step_succeeded
            ├─ step charge                      payment   step_in_doubt
            │  └─ POST psp                      payment   timeout
            │     └─ POST /charges              psp       client_gone
            ├─ probe charge                     payment   probe_found
            │  └─ GET psp                       payment   200
            │     └─ GET /charges/by-key/{key}  psp       200
            ├─ step record                      payment   step_succeeded
            └─ step forward:shipping            payment   step_succeeded
               └─ POST /sagas                   payment   200
                  └─ POST /sagas                shipping  200"""

LATE_FAILURE = """\
story late-failure                                           demo
└─ POST /orders                                              order     200
   └─ POST /sagas                                            order     200
      └─ POST /sagas                                         payment   200
         ├─ saga payment                                     payment   completed
         │  ├─ step reserve                                  payment   step_succeeded
         │  ├─ step charge                                   payment   step_succeeded
         │  │  └─ POST psp                                   payment   201
         │  │     └─ POST /charges                           psp       201
         │  ├─ step record                                   payment   step_succeeded
         │  └─ step forward:shipping                         payment   step_succeeded
         │     └─ POST /sagas                                payment   200
         │        └─ POST /sagas                             shipping  200
         │           └─ POST /sagas/{saga_id}/compensate     shipping  200
         │              └─ POST /sagas/{saga_id}/compensate  payment   200
         └─ saga payment                                     payment   compensated
            ├─ compensate charge                             payment   compensation_succeeded
            │  └─ POST psp                                   payment   200
            │     └─ POST /refunds                           psp       200
            ├─ compensate reserve                            payment   compensation_succeeded
            └─ tell order                                    payment   tell_delivered
               └─ POST /sagas/{saga_id}/compensate           payment   200
                  └─ POST /sagas/{saga_id}/compensate        order     200"""

OVERTAKEN = """\
story overtaken                      demo
├─ POST /sagas/{saga_id}/compensate  payment   200
│  └─ saga payment                   payment   compensated
├─ POST /sagas                       payment   410
└─ POST /orders                      order     409
   └─ POST /sagas                    order     410
      └─ POST /sagas                 payment   410"""


def linked(spans: Spans) -> set[str]:
    """The names of spans that link to anything."""
    return {span.name for span in spans if span.links}


def completed(spans: Spans) -> None:
    """From the order to the parcel; nothing was repeated, so nothing is linked."""
    assert COMPLETED == spans.tree(times=False)
    assert set() == linked(spans)


def refused(spans: Spans) -> None:
    """Each undo links to what it undoes."""
    assert REFUSED == spans.tree(times=False)
    for step in ("charge", "reserve"):
        spans.one(f"compensate {step}").links_to_only(spans.one(f"step {step}"))
    assert {"compensate charge", "compensate reserve"} == linked(spans)


def in_doubt(spans: Spans) -> None:
    """The probe links to the attempt that it looks for."""
    assert IN_DOUBT == spans.tree(times=False)
    spans.one("probe charge").links_to_only(spans.one("step charge").is_error())
    assert {"probe charge"} == linked(spans)


def late_failure(spans: Spans) -> None:
    """The way back up is a run of its own: linked to all it undoes, and to who asked for it."""
    assert LATE_FAILURE == spans.tree(times=False)
    steps = {
        step: spans.one(f"step {step}")
        for step in ("reserve", "charge", "record", "forward:shipping")
    }
    asked = spans.one(COMPENSATE, service="payment", kind="server")
    spans.one("saga payment", outcome="compensated").links_to_only(*steps.values(), asked)
    for step in ("charge", "reserve"):  # shipping said that nothing stands there
        spans.one(f"compensate {step}").links_to_only(steps[step])


def overtaken(spans: Spans) -> None:
    """The tombstone is in the same trace as the request that it turned away."""
    assert OVERTAKEN == spans.tree(times=False)
    assert set() == linked(spans)


def five_times(spans: Spans) -> None:
    """Five requests, one run below one of them."""
    asked = spans.all("POST /sagas", service="payment", kind="server")
    assert [200] * 5 == [span["status"] for span in asked]
    run = spans.one("saga payment", outcome="completed")
    assert run.parent_id in {span.span_id for span in asked}
    for name in ("step reserve", "step charge", "step record", "step forward:shipping"):
        spans.one(name, outcome="step_succeeded").below(run)
    spans.one("POST /charges", service="psp").below(spans.one("POST psp"))
    spans.one("POST /sagas", service="shipping")
    assert 1 + 5 + 1 + 4 + 2 + 2 == len(spans)


def killed(spans: Spans) -> None:
    """The second process tells what the first could not: the attempt, under its own id."""
    order = spans.one("POST /orders", status=200).below(spans.one("story killed"))
    asking = spans.all("POST /sagas", service="order")
    assert ["broken", 200] == [asking[0]["error"], asking[-1]["status"]]
    for each in asking:
        each.below(order)
    spans.one("POST /sagas", service="payment", kind="server").below(asking[-1])
    cut = spans.one("step charge").has(outcome="cut_off", attempt=1).is_error()
    run = spans.one("saga payment", outcome="completed").links_to_only(cut)
    assert run.parent_id == cut.parent_id  # the request that accepted it
    # On a busy machine a probe may have no answer: each further one links to it as well.
    *failed, probe = probes = spans.all("probe charge")
    assert {"probe_failed"} >= {each["outcome"] for each in failed}
    for number, each in enumerate(probes):
        each.below(run).links_to_only(cut, *probes[max(0, number - 1) : number])
    probe.has(outcome="probe_found")
    look = spans.one("GET psp", status=200).below(probe)
    spans.one("GET /charges/by-key/{key}", service="psp").below(look)
    spans.one("step record", outcome="step_succeeded").below(run)
    forward = spans.one("step forward:shipping", outcome="step_succeeded").below(run)
    leaving = spans.one("POST /sagas", service="payment", kind="client").below(forward)
    spans.one("POST /sagas", service="shipping").below(leaving)
    # The kill took the request with it, and the spans below it that had not been sent.
    charged = spans.one("POST /charges", service="psp", error="client_gone")
    known = {span.span_id for span in spans}
    first = {span.span_id for span in spans if span.parent_id == cut.parent_id or span is charged}
    assert first | {s.span_id for s in spans.all("step reserve")} == {
        span.span_id for span in spans.strays()
    }
    assert {link for span in spans for _, link in span.links} <= known


def gateway(spans: Spans) -> None:
    """Each repeat links to the attempt whose answer the gateway gave; shipping worked once."""
    run = spans.one("saga payment", outcome="completed")
    *doubts, last = spans.all("step forward:shipping")
    assert {"step_in_doubt"} == {each["outcome"] for each in doubts}
    for before, after in itertools.pairwise((*doubts, last.has(outcome="step_succeeded"))):
        after.below(run).links_to_only(before)


def pending(spans: Spans) -> None:
    """The second process goes on where the API said to wait, once a webhook has told it."""
    run = spans.one("saga payment", outcome="completed")
    for name in ("step record", "step forward:shipping"):
        spans.one(name, outcome="step_succeeded").below(run)


def heard_of(webhooks: Spans, saga_trace: str) -> None:
    """An API sends webhooks in traces of its own; each is linked to that of its saga."""
    assert ["POST /webhooks/{external}"] * 2 == [span.name for span in webhooks]
    for webhook in webhooks:
        assert [saga_trace] == [trace for trace, _ in webhook.links]


STORIES: dict[str, Callable[[Spans], None]] = {
    "completed": completed,
    "refused": refused,
    "in-doubt": in_doubt,
    "late-failure": late_failure,
    "overtaken": overtaken,
    "five-times": five_times,
    "killed": killed,
    "gateway": gateway,
    "pending": pending,
}


@pytest.mark.timeout(110)
async def test_each_story_is_one_trace_over_all_processes() -> None:
    """One trace id a story, in every span of the four services; parents and links as expected."""
    collector = Collector()
    async with TestServer(collector.app, host="127.0.0.1") as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stage", "demo", "--json",
            "--otlp", f"http://127.0.0.1:{server.port}",
            stdout=PIPE, stderr=PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(100):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()  # until its pipes are closed too
    assert 0 == process.returncode, (out, err)
    stories = {story["name"]: story for story in msgspec.json.decode(out)["stories"]}
    assert list(STORIES) == list(stories)
    traces = {story["trace_id"] for story in stories.values()}
    assert traces <= collector.trace_ids
    others = collector.where(lambda span: span.trace_id not in traces)
    heard_of(others, stories["pending"]["trace_id"])
    for name, check in STORIES.items():
        spans = collector.of_trace(stories[name]["trace_id"]).is_one_trace()
        assert {f"story {name}"} == {span.name for span in spans if span.service == "demo"}
        assert {stories[name]["saga_id"]} == {span["saga_id"] for span in spans} - {None}
        try:
            check(spans)
        except AssertionError as error:
            error.add_note(f"story {name}:\n{spans.tree()}")
            raise
    assert SERVICES == {span.service for span in collector}
