"""Span contexts of the OpenTelemetry API, parsed from the text that is stored with a saga."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState

from stage.telemetry import propagation
from stage.telemetry.propagation import Ids

LINKS_MAX: Final = 128
"""As many as the SDK keeps by default."""
CONTEXTS_CACHED_MAX: Final = 1_024
"""The parent of a run is that of many of its attempts: it is parsed once."""

FLAGS: Final = tuple(map(TraceFlags, range(4)))
"""By their number: sampled (1), random trace id (2), and both. To make one takes a while."""
SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")


@lru_cache(maxsize=CONTEXTS_CACHED_MAX)
def parse_context(traceparent: str, tracestate: str) -> SpanContext | None:
    """The span that these name, in this process or another; None where there is none."""
    ids = propagation.parse(traceparent)
    return None if ids is None else _span_context(ids, tracestate)


def parse_links(parent: SpanContext | None, span_ids: Sequence[str]) -> list[Link]:
    """Links, each span once: a span id within the parent's trace, or a whole traceparent."""
    links = []
    for text in list(dict.fromkeys(span_ids))[:LINKS_MAX]:
        linked = propagation.parse(text)
        if linked is None and parent is not None and SPAN_ID.fullmatch(text) and int(text, 16):
            linked = Ids(parent.trace_id, int(text, 16), parent.trace_flags)
        if linked is not None:
            links.append(Link(_span_context(linked)))
    return links


def _span_context(ids: Ids, tracestate: str = "") -> SpanContext:
    return SpanContext(
        ids.trace_id,
        ids.span_id,
        is_remote=True,
        trace_flags=FLAGS[ids.flags],
        trace_state=TraceState.from_header([tracestate]) if tracestate else None,
    )
