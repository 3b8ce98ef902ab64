"""The answer 202 and the link to the trace of a saga, for execute and for compensate."""

from __future__ import annotations

from stage.inbound.request import Answer, Request, json_answer
from stage.ports.observer import TraceContext
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.views import Standing


def accepted(request: Request, location: str, *headers: tuple[str, str]) -> Answer:
    """202: durably accepted, still running. `location` is where the saga can be queried.

    It is relative to the path that was asked, so that it is right behind any prefix that a
    gateway strips (protocol 3.3).
    """
    saga_id = request.about.saga_id  # holds nothing that a path escapes
    return json_answer(
        Standing(saga_id=saga_id, outcome=Outcome.IN_PROGRESS),
        (h.LOCATION, location),
        (h.RETRY_AFTER, "1"),
        *headers,
        status=202,
    )


def link_saga(request: Request, traceparent: str) -> None:
    """Link the request to the trace of its saga, where it came in another one."""
    span = request.about.span
    if traceparent == span.context.traceparent:
        return  # it opened the saga
    if TraceContext(traceparent=traceparent).trace_id != span.trace_id:
        span.link(traceparent)
