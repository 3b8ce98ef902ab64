"""A collector for tests: takes OTLP over HTTP, decodes the protobuf, and keeps the spans."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from stage.testing import Spans, SpanSeen

BODY_BYTES_MAX = 16 * 1024 * 1024


class Collector(Spans):
    """The spans that arrived; `app` takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[SpanSeen] = []
        self.app = web.Application(client_max_size=BODY_BYTES_MAX)
        self.app.router.add_post("/v1/traces", self._take)

    def _now(self) -> tuple[SpanSeen, ...]:
        return tuple(self.arrived)

    def of_trace(self, trace_id: str) -> Spans:
        """Those of one trace."""
        return self.where(lambda span: span.trace_id == trace_id)

    async def _take(self, request: web.Request) -> web.Response:
        assert "application/x-protobuf" == request.content_type
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.arrived.extend(decode(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


LATE_SECONDS = 0.5
"""An attempt ends in the journal at most so long before its span waits to be sent."""


def lost_spans(
    spans: Iterable[SpanSeen], service: str, kills: Iterable[float]
) -> list[tuple[float, float]]:
    """From when to when the spans may have ended that each kill of a service took with it.

    Spans leave in the order in which they ended: however slow the machine, whatever ended before
    one that has arrived was sent.
    """
    ends = [span.ended / 1e9 for span in spans if span.service == service]
    return [
        (max((end for end in ends if end < kill), default=0.0) - LATE_SECONDS, kill)
        for kill in kills
    ]


def decode(body: bytes) -> Iterator[SpanSeen]:
    """The spans of one export. Raises DecodeError."""
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        service = str(_values(resource.resource.attributes).get("service.name", ""))
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _seen(span, service)


def _seen(span: Told, service: str) -> SpanSeen:
    return SpanSeen(
        name=span.name,
        kind=Told.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        attributes=_values(span.attributes),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        service=service,
    )


def _values(pairs: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    pair: KeyValue
    for pair in pairs:
        value: AnyValue = pair.value
        values[pair.key] = getattr(value, value.WhichOneof("value") or "string_value")
    return values
