"""Encodes spans for a collector: the bytes of the SDK's encoder, at a fifteenth of its time.

The SDK builds a protobuf message for each span, link and attribute, and hashes the resource as JSON
for each span. Here the bytes of a span are written directly. A message of protobuf is its fields
one after the other, so what many fast spans share is encoded once and put between the rest.

A span of the SDK, as authors make them, is read and written too. A span with other contents
(events, attributes of links, values that are neither text nor a number) is left to the SDK, and so
is a whole batch when its first span is not encoded to the SDK's bytes.

The numbers are those of the fields in opentelemetry/proto/trace/v1/trace.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from stage.telemetry import names
from stage.telemetry.fast.spans import UNSET, FastSpan
from stage.telemetry.span_parts import SpanEnd, SpanTemplate

CACHED_MAX = 2_048
"""Attributes that are kept encoded: most come again, and those of one saga some six times."""

SLICE_SPANS = 16
"""Spans that are encoded in one go, in a tenth of a millisecond or so."""

_TIMES = struct.Struct("<BQBQ")
_DOUBLE = struct.Struct("<Bd")
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_OWN_IDS = 28
"""Bytes of the ids of a span, in front of that of its parent."""
_BELOW_NOTHING = b"\x85\x01" + _HAS_IS_REMOTE.to_bytes(4, "little")
_BELOW_REMOTE = b"\x85\x01" + (_HAS_IS_REMOTE | _IS_REMOTE).to_bytes(4, "little")
"""The flags of a fast span, without a parent and below one, which came as text or is stored."""


class Encoded(bytes):
    """A request to a collector, with the one method by which the SDK's exporter reads a message."""

    def SerializePartialToString(self) -> bytes:
        """These bytes."""
        return self

    SerializeToString = SerializePartialToString


def no_pause() -> None:
    """Go on at once."""


def encode(
    spans: Sequence[ReadableSpan | FastSpan], pause: Callable[[], None] = no_pause
) -> Encoded:
    """An ExportTraceServiceRequest. Raises what the SDK's encoder raises.

    `pause` is called after each SLICE_SPANS, where the thread is to let others have the
    interpreter.
    """
    try:
        return _request(spans, pause)
    except Exception:  # the SDK reports what is wrong with them
        return Encoded(encode_spans(list(map(_readable, spans))).SerializePartialToString())


def _request(spans: Sequence[ReadableSpan | FastSpan], pause: Callable[[], None]) -> Encoded:
    """Group the spans by resource and scope, which are compared as objects and not by value."""
    if spans and isinstance(spans[0], FastSpan):
        provider = spans[0].provider
        for span in spans:
            if type(span) is not FastSpan or span.provider is not provider:
                break
        else:  # none of the author's
            return Encoded(_resource_spans([spans], pause))
    scopes: dict[int, dict[int, list[ReadableSpan | FastSpan]]] = {}
    for span in spans:
        of_resource = scopes.setdefault(id(span.resource), {})
        of_resource.setdefault(id(span.instrumentation_scope), []).append(span)
    return Encoded(
        b"".join(_resource_spans(list(each.values()), pause) for each in scopes.values())
    )


def _resource_spans(
    scopes: Sequence[Sequence[ReadableSpan | FastSpan]], pause: Callable[[], None]
) -> bytes:
    sample_of = encode_spans([_readable(spans[0]) for spans in scopes]).resource_spans[0]
    # Equal scopes that are two objects are one to the SDK: then `zip` raises.
    within = [_field(0x0A, sample_of.resource.SerializePartialToString())]
    for spans, sample in zip(scopes, sample_of.scope_spans, strict=True):
        (first,) = sample.spans
        known = _span(spans[0]) == first.SerializePartialToString()
        scope = _field(0x0A, sample.scope.SerializePartialToString())
        encoded = _spans(spans, pause) if known else _each(spans, _by_sdk, pause)
        within.append(_field(0x12, scope + encoded + _text(0x1A, sample.schema_url)))
    return _field(0x0A, b"".join(within) + _text(0x1A, sample_of.schema_url))


def _spans(spans: Sequence[ReadableSpan | FastSpan], pause: Callable[[], None]) -> bytes:
    """All spans of a scope: at once where all of them are fast, and one by one where not."""
    written: list[bytes] = []
    try:
        for span in _paced(spans, pause):
            encoded = _fast(span)  # type: ignore[arg-type]  # another one raises
            written += _head(len(encoded)), encoded
    except Exception:
        return _each(spans, _span, pause)
    return b"".join(written)


def _each(
    spans: Sequence[ReadableSpan | FastSpan],
    encode: Callable[[ReadableSpan | FastSpan], bytes],
    pause: Callable[[], None],
) -> bytes:
    return b"".join([_field(0x12, encode(span)) for span in _paced(spans, pause)])


def _paced(
    spans: Sequence[ReadableSpan | FastSpan], pause: Callable[[], None]
) -> Iterator[ReadableSpan | FastSpan]:
    for number, span in enumerate(spans):
        if number and not number % SLICE_SPANS:
            pause()
        yield span


@lru_cache(maxsize=CACHED_MAX)
def _head(size: int) -> bytes:
    """The bytes in front of a span of that size."""
    return b"\x12" + _varint(size)


def _readable(span: ReadableSpan | FastSpan) -> ReadableSpan:
    return span.readable() if isinstance(span, FastSpan) else span


def _by_sdk(span: ReadableSpan | FastSpan) -> bytes:
    message = encode_spans([_readable(span)]).resource_spans[0].scope_spans[0].spans[0]
    return bytes(message.SerializePartialToString())


def _span(span: ReadableSpan | FastSpan) -> bytes:
    try:
        return _fast(span) if isinstance(span, FastSpan) else _known(span)
    except Exception:
        return _by_sdk(span)


def _fast(span: FastSpan) -> bytes:
    """A fast span, put together from parts that are encoded once."""
    template, ended, own, above = span.template, span.ended, span.traceparent, span.above
    head, before, after = template.encoded or _template(template)
    attributes, status = ended.encoded or _end(ended)
    if above:
        ids = bytes.fromhex(f"0a10{own[3:35]}1208{own[36:52]}2208{above[36:52]}")
        flags = _BELOW_REMOTE
        if span.parent.tracestate:  # it stands between the ids
            ids = ids[:_OWN_IDS] + _text(0x1A, span.tracestate) + ids[_OWN_IDS:]
    else:
        ids = bytes.fromhex(f"0a10{own[3:35]}1208{own[36:52]}")
        flags = _BELOW_NOTHING
    times = _TIMES.pack(0x39, span.start_time, 0x41, span.end_time)
    saga = _saga(span.saga_id)
    if span.links:
        attributes += b"".join(map(_link, span.links))
    return b"".join((ids, head, times, before, saga, after, attributes, status, flags))


@lru_cache(maxsize=CACHED_MAX)
def _saga(saga_id: str) -> bytes:
    """The attribute of that saga; nothing without one."""
    return _attribute(names.SAGA_ID, saga_id) if saga_id else b""


def _template(template: SpanTemplate) -> tuple[bytes, bytes, bytes]:
    template.encoded = (
        _name_and_kind(template.name, template.span_type.kind),
        _attributes(template.before),
        _attributes(template.after),
    )
    return template.encoded


def _end(end: SpanEnd) -> tuple[bytes, bytes]:
    end.encoded = _attributes(end.attributes), _status(end.status or UNSET)
    return end.encoded


def _known(span: ReadableSpan) -> bytes:
    """The span. Raises any error where it has contents that are not known here."""
    context, parent = span.context, span.parent
    if span.events or span.dropped_events or span.dropped_links or span.dropped_attributes:
        raise ValueError(span.name)
    parts = [
        _ids(context),
        _text(0x1A, context.trace_state.to_header()) if context.trace_state else b"",
        b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent else b"",
        _name_and_kind(span.name, span.kind),
        _TIMES.pack(0x39, span.start_time, 0x41, span.end_time),
    ]
    # A copy, whose items are read in C: those of the SDK's mapping are read one call each. By its
    # type it may be None, which it never is for an ended span.
    attributes: dict[str, Any] = span.attributes.copy()  # type: ignore[union-attr]
    parts += [_attribute(key, value) for key, value in attributes.items()]
    parts += [_link(link) for link in span.links]
    parts += [_status(span.status), b"\x85\x01", _flags(parent)]
    return b"".join(parts)


def _link(link: Link) -> bytes:
    if link.attributes or link.dropped_attributes:
        raise ValueError("a link with attributes")
    return _field(0x6A, _ids(link.context) + b"\x35" + _flags(link.context))


def _ids(context: SpanContext) -> bytes:
    trace_id, span_id, *_ = context
    return b"\x0a\x10" + trace_id.to_bytes(16, "big") + b"\x12\x08" + span_id.to_bytes(8, "big")


def _flags(context: SpanContext | None) -> bytes:
    """The flags of a span's parent, or of the span that a link names."""
    remote = _IS_REMOTE if context and context.is_remote else 0
    return (_HAS_IS_REMOTE | remote).to_bytes(4, "little")


def _status(status: Status) -> bytes:
    if status.status_code is StatusCode.UNSET and not status.description:
        return b"\x7a\x00"
    code = bytes((0x18, status.status_code.value)) if status.status_code.value else b""
    return _field(0x7A, _text(0x12, status.description or "") + code)


@lru_cache(maxsize=CACHED_MAX)
def _name_and_kind(name: str, kind: SpanKind) -> bytes:
    """Names are few: spans differ in their attributes."""
    return _text(0x2A, name) + b"\x30" + _varint(kind.value + 1)


@lru_cache(maxsize=CACHED_MAX, typed=True)  # untyped, 1 would be found for True
def _attribute(key: str, value: object) -> bytes:
    match value:
        case str():
            encoded = _field(0x0A, value.encode())
        case bool():
            encoded = b"\x10\x01" if value else b"\x10\x00"
        case int() if -(1 << 63) <= value < 1 << 63:
            encoded = b"\x18" + _varint(value & 0xFFFF_FFFF_FFFF_FFFF)
        case float():
            encoded = _DOUBLE.pack(0x21, value)
        case _:
            raise TypeError(key)
    return _field(0x4A, _field(0x0A, key.encode()) + _field(0x12, encoded))


def _attributes(attributes: Mapping[str, Any]) -> bytes:
    return b"".join(_attribute(key, value) for key, value in attributes.items())


def _text(tag: int, text: str) -> bytes:
    """A field of text; no bytes where it is empty."""
    return _field(tag, text.encode()) if text else b""


def _field(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    if size < 0x4000:
        return bytes((tag, size & 0x7F | 0x80, size >> 7)) + value
    return bytes((tag,)) + _varint(size) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
