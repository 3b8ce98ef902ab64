"""Requests are answered without any server: by the table of routes, with ids and problems."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from stage.core.errors import CommitInDoubt, JournalMismatch, StoreUnavailable
from stage.engine.clock import SystemClock
from stage.inbound.admission import Admission
from stage.inbound.dispatch import UNKNOWN_ROUTE, dispatch
from stage.inbound.lookups import Lookups
from stage.inbound.request import Answer, HeaderPairs, Request
from stage.inbound.routes import ROUTES, Found, find
from stage.inbound.service import Service
from stage.ports.engine import Busy, Reply, Stopping, Unsettled
from stage.ports.observer import TraceContext
from stage.wire.descriptor import Descriptor
from stage.wire.limits import DEFAULT_LIMITS

BODY = b'{"saga_id":"s-1","data":{}}'
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Span:
    """Keeps what it is ended with."""

    span_id = "00f067aa0ba902b7"
    trace_id = TRACE_ID
    context = TraceContext(traceparent=f"00-{TRACE_ID}-00f067aa0ba902b7-01")

    def __init__(self) -> None:
        self.saga_id = ""
        self.ended: tuple[str, str] | None = None

    def about(self, saga_id: str) -> None:
        self.saga_id = saga_id

    def link(self, traceparent: str) -> None: ...

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        self.ended = (outcome, error)


class Observer:
    """Keeps the spans of requests by their route, and the defects."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, Span]] = []
        self.defects: list[BaseException] = []

    def request(self, method: str, route: str, *_: object, **more: object) -> Span:
        self.spans.append((route, str(more["path"]), Span()))
        return self.spans[-1][2]

    def bind(self, *_: object) -> None: ...

    def defect(self, where: str, saga_id: str, trace: object, error: BaseException) -> None:
        self.defects.append(error)


class Engine:
    """Answers every saga in the same way."""

    ready = True

    def __init__(self, reply: Reply | Exception | None) -> None:
        self.reply = reply

    async def accept(self, *_: object, **__: object) -> Reply | None:
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    operate = accept

    async def look(self, *_: object) -> None:
        return None

    async def seen(self, saga_ids: Sequence[str]) -> frozenset[str]:
        if isinstance(self.reply, StoreUnavailable):
            raise self.reply
        return frozenset({"seen"}.intersection(saga_ids))


def service(reply: Reply | Exception | None = None, **more: Any) -> tuple[Service, Observer]:
    observer = Observer()
    made = Service(
        engine=cast(Any, Engine(reply)),
        participant=cast(Any, None),
        observer=cast(Any, observer),
        clock=SystemClock(),
        descriptor=Descriptor(name="pay", accepts={}, adds={}, compensation_window_seconds=1.0),
        limits=DEFAULT_LIMITS,
        neighbours=cast(Any, SimpleNamespace(names_of=lambda name: (name,))),
        metrics=cast(Any, None),
        lookups=Lookups(Engine(reply).seen),
        **more,
    )
    return made, observer


def request(method: str = "POST", path: str = "/sagas", body: bytes = BODY, **more: Any) -> Request:
    async def read_body() -> bytes:
        return body

    headers = HeaderPairs([("Content-Type", "application/json"), *more.pop("headers", ())])
    return Request(method=method, path=path, headers=headers, read_body=read_body, **more)


def header(answer: Answer, name: str) -> str | None:
    return dict(answer.headers).get(name)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_route_is_found_by_its_own_template(route: Any) -> None:
    path = route.template.replace("{saga_id}", "s%3A1").replace("{number}", "7")
    path = path.replace("{external}", "psp").replace("{name}", "console.css")
    found = find(route.method, path)
    assert isinstance(found, Found)
    assert route is found.route
    named = {"saga_id": "s:1", "number": "7", "external": "psp", "name": "console.css"}
    assert {
        name: named[name] for name in re.findall(r"{(\w+)}", route.template)
    } == found.parameters


@pytest.mark.parametrize(
    "method,path,allowed",
    [
        ("GET", "/", ()),
        ("GET", "/sagas/", ()),
        ("GET", "/sagas//compensate", ()),
        ("GET", "/sagas/s-1/undo", ()),
        ("DELETE", "/sagas", ("GET", "POST")),
        ("HEAD", "/sagas/s-1", ("GET",)),
        ("POST", "/readyz", ("GET", "HEAD")),
        ("GET", "/sagas/s-1/retry", ("POST",)),
    ],
)
def test_a_path_that_fits_no_template_is_not_found(method: str, path: str, allowed: Any) -> None:
    assert allowed == find(method, path)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_load_balancer_may_ask_by_head(path: str) -> None:
    """Some ask for nothing but the head, and count a 405 as a service that is down."""
    found = find("HEAD", path)

    assert isinstance(found, Found)
    assert path == found.route.template


@pytest.mark.parametrize("path", ["/%73agas", "/s%61gas", "/%73%61%67%61%73"])
def test_an_escape_that_a_path_does_not_need_changes_nothing(path: str) -> None:
    """As under `stage serve`: a gateway that guards a path may see it with escapes (RFC 3986)."""
    found = find("POST", path)

    assert isinstance(found, Found)
    assert "/sagas" == found.route.template
    assert () == find("POST", "/%2Fsagas")


async def test_an_answer_carries_the_ids_and_the_span_its_status() -> None:
    made, observer = service(Reply(status=200, body=b"{}", replayed=True))
    answer = await dispatch(made, request(prefix="/outer"))
    assert (200, b"{}") == (answer.status, answer.body)
    assert ("s-1", TRACE_ID) == (header(answer, "Saga-Id"), header(answer, "Trace-Id"))
    assert "true" == header(answer, "Idempotency-Replayed")
    [(route, path, span)] = observer.spans
    assert ("/outer/sagas", "/outer/sagas", "s-1") == (route, path, span.saga_id)
    assert ("200", "") == span.ended


async def test_location_is_right_below_any_prefix() -> None:
    made, _ = service(None)
    answer = await dispatch(made, request(prefix="/outer", headers=[("prefer", "respond-async")]))
    assert (202, "sagas/s-1") == (answer.status, header(answer, "Location"))
    assert "respond-async" == header(answer, "Preference-Applied")


@pytest.mark.parametrize(
    "error,status,outcome,retry_after",
    [
        (Unsettled("?"), 500, "unknown", "1"),
        (Stopping(), 503, "unknown", "1"),
        (CommitInDoubt("?"), 500, "unknown", "1"),
        (Busy("full", retry_after=1.2), 503, "not_executed", "2"),
        (StoreUnavailable("away"), 503, "unknown", "1"),
        (JournalMismatch("?"), 500, "unknown", None),
        (RuntimeError("?"), 500, "unknown", None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_every_error_is_a_problem(
    error: Exception, status: int, outcome: str, retry_after: str | None
) -> None:
    made, observer = service(error)
    answer = await dispatch(made, request())
    problem = msgspec.json.decode(answer.body)
    assert (status, outcome) == (answer.status, problem["outcome"])
    assert ("s-1", TRACE_ID) == (problem["saga_id"], problem["trace_id"])
    assert retry_after == header(answer, "Retry-After")
    assert "application/problem+json" == header(answer, "Content-Type")
    assert isinstance(error, RuntimeError) == (observer.defects == [error])


async def test_an_order_that_meets_a_database_that_is_away_may_have_been_done() -> None:
    """Behind its own unit, or by the copy before it: `not_executed` would be true of neither."""
    made, _ = service(StoreUnavailable("away"))
    order = b'{"actor":"kim","reason":"r"}'
    answer = await dispatch(made, request("POST", "/sagas/s-1/retry", order))
    problem = msgspec.json.decode(answer.body)
    assert (503, "unknown", True) == (answer.status, problem["outcome"], problem["retryable"])
    assert "Idempotency-Key" in problem["hint"] and "1" == header(answer, "Retry-After")


async def test_requests_are_counted_by_the_template_alone() -> None:
    """A host may mount the stage under a name from outside, and a stranger ask for any path."""
    counted: list[tuple[str, str, int]] = []
    made, _ = service(answered=lambda *seen: counted.append(seen))
    for number in range(3):
        await dispatch(made, request("GET", f"/sagas/s-{number}", prefix=f"/tenant-{number}"))
        await dispatch(made, request("GET", f"/no/{number}", prefix=f"/tenant-{number}"))
    assert {("GET", "/sagas/{saga_id}"), ("GET", "/?")} == {seen[:2] for seen in counted}
    assert 6 == len(counted)


async def test_too_many_requests_are_refused_before_the_engine_is_asked() -> None:
    made, _ = service(RuntimeError("was asked"), admission=Admission(0))
    answer = await dispatch(made, request())
    assert (503, "1") == (answer.status, header(answer, "Retry-After"))


async def test_no_route_and_no_method_are_problems_of_an_unknown_route() -> None:
    made, observer = service()
    missing = await dispatch(made, request("GET", "/nowhere"))
    wrong = await dispatch(made, request("PUT", "/sagas"))
    assert (404, 405) == (missing.status, wrong.status)
    assert "GET,POST" == header(wrong, "Allow")
    assert {UNKNOWN_ROUTE} == {route for route, _, _ in observer.spans}


async def test_a_saga_id_that_is_none_is_not_repeated_in_headers() -> None:
    made, _ = service()
    answer = await dispatch(made, request("GET", "/sagas/a%0d%0aSet-Cookie:x", b""))
    assert 422 == answer.status
    assert header(answer, "Saga-Id") is None
