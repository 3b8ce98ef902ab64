"""Spans: parents and links come from what is stored, and without an SDK the trace goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import SpanKind, StatusCode

from stage.core.commands import AttemptKind
from stage.ports.observer import Observer, Span, TraceContext
from stage.telemetry import names, visible
from stage.telemetry.id_generator import StageIdGenerator
from stage.telemetry.null import NullObserver
from stage.telemetry.spans import OtelObserver
from tests.unit.telemetry.given import an_attempt

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
CAME = [("traceparent", PARENT), ("tracestate", "foo=1"), ("Host", "x")]


class Collected:
    """An observer with a real SDK behind it, and what it made."""

    def __init__(self, sampler: Sampler | None = None, ids: IdGenerator | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False, id_generator=ids)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.observer = OtelObserver(self.provider)

    def one(self, name: str) -> ReadableSpan:
        found = [span for span in self.exporter.get_finished_spans() if span.name == name]
        assert len(found) == 1, [span.name for span in self.exporter.get_finished_spans()]
        return found[0]


@pytest.fixture
def collected() -> Iterator[Collected]:
    collected = Collected()
    yield collected
    collected.provider.shutdown()


def attempt(
    observer: Observer,
    parent: TraceContext,
    links: Sequence[str] = (),
    kind: AttemptKind = AttemptKind.EXECUTE,
    peer: str = "psp",
) -> Span:
    return observer.attempt(an_attempt(kind=kind, number=2, peer=peer, parent=parent, links=links))


def span_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def parent_id(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def test_request_run_and_attempt_are_one_trace(collected: Collected) -> None:
    """Each span stands below the context that it was given."""
    request = collected.observer.request("POST", "/sagas", CAME, "")
    run = collected.observer.run("s-1", "payment", request.context, [])
    charge = attempt(collected.observer, run.context)
    charge.end("step_succeeded")
    run.end("completed")
    request.end("200")

    spans = [collected.one(name) for name in ("POST /sagas", "saga payment", "step charge")]
    assert [SPAN, span_id(spans[0]), span_id(spans[1])] == [parent_id(span) for span in spans]
    assert {TRACE} == {f"{span.context.trace_id:032x}" for span in spans if span.context}
    assert [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.INTERNAL] == [span.kind for span in spans]
    assert TraceContext(traceparent=f"00-{TRACE}-{charge.span_id}-01", tracestate="foo=1") == (
        charge.context
    )
    assert charge.trace_id == TRACE and span_id(spans[2]) == charge.span_id


def test_the_span_that_happens_to_be_current_is_not_the_parent(collected: Collected) -> None:
    """A saga belongs to its stored context, not to the task that runs it."""
    stored = TraceContext(traceparent=PARENT)
    tracer = collected.provider.get_tracer("host")
    with tracer.start_as_current_span("of the host"):
        collected.observer.run("s-1", "payment", stored, []).end("completed")
        collected.observer.request("GET", "/sagas", [], "").end("200")
    assert parent_id(collected.one("saga payment")) == SPAN
    assert parent_id(collected.one("GET /sagas")) is None


def test_a_span_links_to_those_that_it_continues_or_undoes(collected: Collected) -> None:
    """Links are span ids within the saga's trace, each once; what is no span id is left out."""
    stored = TraceContext(traceparent=PARENT)
    one, two = "a" * 16, "b" * 16
    links = [one, two, one, "", "0" * 16, "nonsense", "A" * 16]
    collected.observer.run("s-1", "payment", stored, links).end("active")
    attempt(collected.observer, stored, [one], AttemptKind.COMPENSATE).end("compensation_succeeded")

    def linked(name: str) -> list[tuple[str, str]]:
        found = collected.one(name).links
        return [(f"{x.context.trace_id:032x}", f"{x.context.span_id:016x}") for x in found]

    assert linked("saga payment") == [(TRACE, one), (TRACE, two)]
    assert linked("compensate charge") == [(TRACE, one)]


def test_spans_have_the_attributes_of_their_attempt(collected: Collected) -> None:
    """The attributes, the outcome, and the failure."""
    stored = TraceContext(traceparent=PARENT)
    attempt(collected.observer, stored).end("step_in_doubt", "x" * 1_000)
    attempt(collected.observer, stored, (), AttemptKind.PROBE, "").end("probe_found")
    doubt, probe = collected.one("step charge"), collected.one("probe charge")
    assert doubt.attributes is not None and probe.attributes is not None
    assert {
        names.SAGA_ID: "s-1",
        names.STAGE: "payment",
        names.STEP: "charge",
        names.ACTIVITY: "execute",
        names.ATTEMPT: 2,
        names.PEER: "psp",
        names.OUTCOME: "step_in_doubt",
        names.REASON: "x" * 300,
        names.ERROR_TYPE: "step_in_doubt",
    } == dict(doubt.attributes)
    assert doubt.status.status_code is StatusCode.ERROR
    assert probe.status.status_code is StatusCode.UNSET
    assert names.PEER not in probe.attributes and probe.kind is SpanKind.INTERNAL


def test_a_refusal_is_no_error(collected: Collected) -> None:
    """A business no is an answer."""
    attempt(collected.observer, TraceContext()).end("step_refused", "card declined")
    span = collected.one("step charge")
    assert span.attributes is not None and span.attributes[names.REASON] == "card declined"
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    "code,status", [("200", StatusCode.UNSET), ("409", StatusCode.UNSET), ("503", StatusCode.ERROR)]
)
def test_a_server_span_has_the_code_of_its_answer(
    collected: Collected, code: str, status: StatusCode
) -> None:
    """Only 5xx are errors of ours."""
    collected.observer.request("GET", "/sagas/{saga_id}", [], "s-1").end(code)
    span = collected.one("GET /sagas/{saga_id}")
    assert span.attributes is not None
    assert span.attributes[names.HTTP_STATUS] == int(code)
    assert span.attributes[names.HTTP_ROUTE] == "/sagas/{saga_id}"
    assert span.attributes[names.SAGA_ID] == "s-1"
    assert span.status.status_code is status


def test_a_span_is_ended_once(collected: Collected) -> None:
    """The first end holds, and the second is no complaint of the SDK's."""
    span = collected.observer.run("s-1", "payment", TraceContext(), [])
    span.end("completed")
    span.end("defect", "late")
    seen = collected.one("saga payment")
    assert seen.attributes is not None and seen.attributes[names.OUTCOME] == "completed"


def test_the_sampling_decision_is_kept() -> None:
    """An unsampled trace stays unsampled: recovery and neighbours read it in the stored context."""
    collected = Collected(ParentBased(ALWAYS_OFF))
    unsampled = TraceContext(traceparent=f"00-{TRACE}-{SPAN}-00")
    run = collected.observer.run("s-1", "payment", unsampled, [])
    root = collected.observer.request("POST", "/sagas", [], "")
    run.end("completed")
    root.end("200")
    assert run.context.traceparent == f"00-{TRACE}-{run.span_id}-00"
    assert root.context.traceparent[-1] in "02" and len(root.trace_id) == 32
    sampled = collected.observer.run("s-2", "payment", TraceContext(traceparent=PARENT), [])
    sampled.end("completed")
    assert [span.name for span in collected.exporter.get_finished_spans()] == ["saga payment"]


def test_platform_routes_make_no_spans(collected: Collected) -> None:
    """They are asked every few seconds; what they were asked with is passed on.

    Also where the stage is mounted below a path of its host.
    """
    for route in (*names.UNTRACED_ROUTES, "/payment/healthz", "/a/b/.well-known/stage"):
        span = collected.observer.request("GET", route, CAME, "")
        assert span.trace_id == TRACE
        span.end("200")
    assert collected.exporter.get_finished_spans() == ()


# --- without an SDK ------------------------------------------------------------------------------


def test_without_an_sdk_the_incoming_trace_is_passed_on_unchanged() -> None:
    """An id of ours would name a span that nobody can find."""
    observer = OtelObserver(otel.NoOpTracerProvider())
    request = observer.request("POST", "/sagas", CAME, "")
    run = observer.run("s-1", "payment", request.context, ["a" * 16])
    charge = attempt(observer, run.context, ["a" * 16])
    charge.end("step_in_doubt", "time-out")
    assert TraceContext(traceparent=PARENT, tracestate="foo=1") == charge.context
    assert charge.trace_id == TRACE and charge.span_id == ""


def test_without_an_sdk_and_without_a_trace_there_is_one_all_the_same() -> None:
    """Logs, headers and the journal always hold a trace id; one saga keeps the one it has."""
    observer = OtelObserver(otel.NoOpTracerProvider())
    first, second = (observer.request("POST", "/sagas", [], "") for _ in range(2))
    assert len(first.trace_id) == 32 and int(first.trace_id, 16) != 0
    assert first.trace_id != second.trace_id
    assert first.context == first.context
    assert observer.run("s-1", "payment", first.context, []).context == first.context


def test_a_broken_sampler_fails_no_saga() -> None:
    """An observer never raises; the trace goes on."""

    class Broken(otel.NoOpTracer):
        def start_span(self, *_: object, **__: object) -> otel.Span:
            raise RuntimeError("broken")

    class Provider(otel.NoOpTracerProvider):
        def get_tracer(self, *_: object, **__: object) -> otel.Tracer:
            return Broken()

    span = OtelObserver(Provider()).request("POST", "/sagas", CAME, "")
    assert span.context.traceparent == PARENT


def test_the_null_observer_passes_on_and_invents_nothing() -> None:
    """Simulations stay the same for the same seed."""
    observer = NullObserver()
    assert observer.request("POST", "/sagas", CAME, "").trace_id == TRACE
    assert observer.request("POST", "/sagas", [], "").context == TraceContext()
    stored = TraceContext(traceparent=PARENT)
    assert attempt(observer, observer.run("s-1", "p", stored, []).context).context == stored


# --- what was cut off, and what is linked --------------------------------------------------------


def cut_off(observer: Observer, parent: TraceContext, span_id: str = "c" * 16) -> None:
    observer.cut_off(
        an_attempt(number=2, parent=parent, links=["d" * 16]),
        span_id=span_id,
        began=1_795_400_000.0,
        ended=1_795_400_002.5,
    )


def test_a_cut_off_attempt_is_reported_under_its_own_id() -> None:
    """With the instants that are known, as an error; the next span has an id of its own again."""
    collected = Collected(ids=StageIdGenerator())
    cut_off(collected.observer, TraceContext(traceparent=PARENT))
    span = collected.one("step charge")
    assert (span_id(span), parent_id(span)) == ("c" * 16, SPAN)
    assert (span.start_time, span.end_time) == (1_795_400_000 * 10**9, 1_795_400_002_500_000_000)
    assert span.attributes is not None
    assert ["d" * 16] == [f"{link.context.span_id:016x}" for link in span.links]
    assert span.attributes[names.OUTCOME] == "cut_off" and span.attributes[names.ATTEMPT] == 2
    assert span.status.status_code is StatusCode.ERROR
    next_ = attempt(collected.observer, TraceContext(traceparent=PARENT))
    assert next_.span_id != "c" * 16


@pytest.mark.parametrize("bad", ["", "0" * 16, "nonsense"])
def test_an_attempt_without_an_id_is_not_reported(bad: str) -> None:
    """There is nothing that could be found under it."""
    collected = Collected(ids=StageIdGenerator())
    cut_off(collected.observer, TraceContext(traceparent=PARENT), bad)
    cut_off(collected.observer, TraceContext())
    assert collected.exporter.get_finished_spans() == ()


def test_an_unsampled_attempt_stays_so_when_it_was_cut_off() -> None:
    """The stored decision holds."""
    collected = Collected(ids=StageIdGenerator())
    cut_off(collected.observer, TraceContext(traceparent=PARENT[:-2] + "00"))
    assert collected.exporter.get_finished_spans() == ()


def test_a_request_that_is_not_joined_links_to_the_trace_it_named(collected: Collected) -> None:
    """It has a trace of its own, and no tracestate of somebody else's."""
    request = collected.observer.request("POST", "/sagas", CAME, "", joined=False)
    request.end("200")
    span = collected.one("POST /sagas")
    assert span.parent is None and request.trace_id != TRACE
    assert request.context.tracestate == ""
    assert [TRACE] == [f"{link.context.trace_id:032x}" for link in span.links]
    untraced = OtelObserver(otel.NoOpTracerProvider()).request("POST", "/", CAME, "", joined=False)
    assert len(untraced.trace_id) == 32 and untraced.trace_id != TRACE


def by_request(observer: Observer) -> Span:
    return observer.request("POST", "/sagas", CAME, "")


def by_run(observer: Observer) -> Span:
    return observer.run("s-1", "payment", TraceContext(traceparent=PARENT), [])


@pytest.mark.parametrize("begin", [by_request, by_run])
def test_a_provider_that_is_set_later_gets_spans_from_then_on(
    collected: Collected, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Observer], Span]
) -> None:
    """By a host that sets itself up after us: the next request or run begins with a span."""
    assert isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider)
    observer = OtelObserver()
    assert not begin(observer).span_id
    # The public function sets a provider once in a process.
    monkeypatch.setattr(otel, "_TRACER_PROVIDER", collected.provider)
    assert begin(observer).span_id
    assert attempt(observer, TraceContext(traceparent=PARENT)).span_id


def test_a_link_may_come_later(collected: Collected) -> None:
    """A request that joins a run later is linked to; a text that is no traceparent is left out."""
    run = collected.observer.run("s-1", "payment", TraceContext(), [])
    run.link(PARENT)
    run.link("")
    run.end("completed")
    (link,) = collected.one("saga payment").links
    assert (TRACE, SPAN) == (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}")


@pytest.mark.parametrize(
    "outcome,code,failed",
    [("201", 201, False), ("404", 404, True), ("503", 503, True), ("timeout", None, True)],
)
def test_a_client_span_shows_how_its_request_ended(
    collected: Collected, outcome: str, code: int | None, failed: bool
) -> None:
    """A code, or one word; 4xx are errors for a client (HTTP conventions)."""
    url = "http://psp.test:81/charges?card=4111"
    span = collected.observer.client("POST", url, peer="psp", route="", parent=TraceContext())
    span.end(outcome, "why")
    seen = collected.one("POST psp")
    assert seen.attributes is not None and seen.kind is SpanKind.CLIENT
    assert seen.attributes["url.full"] == "http://psp.test:81/charges?REDACTED"
    assert (seen.attributes["server.address"], seen.attributes["server.port"]) == ("psp.test", 81)
    assert seen.attributes.get(names.HTTP_STATUS) == code
    assert (seen.status.status_code is StatusCode.ERROR) is failed
    assert seen.attributes.get(names.ERROR_TYPE) == (outcome if failed else None)


@pytest.mark.parametrize("host", ["psp.test:81", "[::1]:81"])
def test_credentials_in_a_url_are_not_shown(collected: Collected, host: str) -> None:
    """The operator may give them with the address of an API; a collector need not know them."""
    url = f"http://kim:s3cret@{host}/charges?card=4111"
    collected.observer.client("POST", url, peer="psp", route="", parent=TraceContext()).end("200")
    span = collected.one("POST psp")
    assert span.attributes is not None
    assert span.attributes["url.full"] == f"http://{host}/charges?REDACTED"


def test_every_attribute_is_in_the_table(collected: Collected) -> None:
    """SPAN_ATTRIBUTES says on which spans an attribute may stand: docs follow it."""
    observer = collected.observer
    request = observer.request("BREW", "/sagas", CAME, "s-1", path="/sagas", scheme="http")
    run = observer.run("s-1", "payment", request.context, [])
    step = attempt(observer, run.context)
    client = observer.client(
        "BREW", "http://x/sagas", peer="shipping", route="/sagas", parent=step.context
    )
    for span, outcome in (
        (client, "503"), (step, "step_in_doubt"), (run, "failed_to_compensate"), (request, "500"),
    ):  # fmt: skip
        span.end(outcome, "why")
    seen = dict(zip(("client", "attempt", "run", "server"),
                    collected.exporter.get_finished_spans(), strict=True))  # fmt: skip
    for span_type, ended in seen.items():
        may_have = {name for name, spans in visible.SPAN_ATTRIBUTES.items() if span_type in spans}
        assert may_have == set(ended.attributes or ()), span_type


@pytest.mark.parametrize("joined,expected", [(True, "tenant=a"), (False, "")])
def test_baggage_goes_down_the_spans_of_a_joined_caller(
    collected: Collected, joined: bool, expected: str
) -> None:
    """From a request to our own requests; not from a caller that is only linked."""
    observer = OtelObserver(collected.provider, baggage_keys=("tenant",))
    came = [*CAME, ("baggage", "tenant=a,user=kim")]
    request = observer.request("POST", "/sagas", came, "", joined=joined)
    run = observer.run("s-1", "payment", request.context, [])
    step = attempt(observer, run.context)
    client = observer.client("POST", "http://x/", peer="psp", route="", parent=step.context)
    assert expected == client.context.baggage


@pytest.mark.parametrize("url", ["http://[::1/x", "http://host:port/x", "http://host:99999/x"])
def test_a_url_that_is_none_fails_no_request(collected: Collected, url: str) -> None:
    """The trace is passed on, and the transport raises for the URL."""
    parent = TraceContext(traceparent=PARENT)
    span = collected.observer.client("POST", url, peer="psp", route="", parent=parent)
    assert parent == span.context
    assert not collected.exporter.get_finished_spans()


def test_a_sampler_sees_the_attributes() -> None:
    """The attributes are there when it decides, so that an operator can sample by them."""
    seen: list[object] = []

    class Recording(Sampler):
        def should_sample(
            self, parent_context: Any, trace_id: int, name: str, *arguments: Any, **more: Any
        ) -> SamplingResult:
            seen.append(arguments[1] or more.get("attributes"))
            return ALWAYS_ON.should_sample(parent_context, trace_id, name, *arguments, **more)

        def get_description(self) -> str:
            return "recording"

    collected = Collected(Recording())
    collected.observer.run("s-1", "payment", TraceContext(), []).end("completed")
    assert [{names.SAGA_ID: "s-1", names.STAGE: "payment"}] == seen
    assert "s-1" == (collected.one("saga payment").attributes or {})[names.SAGA_ID]
