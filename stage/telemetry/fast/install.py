"""Puts the fast pieces in the place of the SDK's: one call, one switch, one version guard.

The pieces are the encoder (`otlp`), the batch processor (`batches`) and the spans (`spans`). They
are written against internals of the SDK, so they are used only with the versions that their tests
ran with. With any other the SDK does all by itself, as it does when the switch is off, and a line
at start gives the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.exporter.otlp.proto.http.version import __version__ as exporter_version
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.version import __version__ as sdk_version

from stage.telemetry import names
from stage.telemetry.fast import otlp
from stage.telemetry.fast.batches import BoundedBatches
from stage.telemetry.fast.spans import FastProvider
from stage.telemetry.id_generator import StageIdGenerator

SDK_FIRST: Final = (1, 42)
SDK_LAST: Final = (1, 45)
"""The first and the last minor version of the SDK and of its exporter that the tests ran with."""
SWITCHED_OFF: Final = frozenset({"off", "0", "false", "no"})

_VERSION = re.compile(r"(\d+)\.(\d+)")


class Off(msgspec.Struct, frozen=True, kw_only=True):
    """Why the SDK does all, or all but the encoding, by itself.

    `deliberate` is True when a setting of the operator asks for it.
    """

    reason: str
    deliberate: bool = True


class QueueLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the queue of spans that wait for the collector. None leaves one to the SDK."""

    capacity: int
    delay_ms: float | None
    batch_size: int | None


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that sends its spans, and whether its queue is full."""

    provider: TracerProvider
    full: Callable[[], bool]


def install(
    exporter: SpanExporter,
    *,
    resource: Resource,
    limits: QueueLimits,
    report: Callable[[Off], None],
) -> Pipeline | None:
    """The fast pipeline to that exporter; None, with nothing touched, when it is off.

    `report` is called with the reason, and later too, when a processor that is added needs spans
    of the SDK. Raises ValueError for a limit that the SDK refuses.
    """
    off = _off()
    if off is not None:
        report(off)
        return None
    batches = BoundedBatches(
        exporter,
        capacity=limits.capacity,
        schedule_delay_millis=limits.delay_ms,
        max_export_batch_size=limits.batch_size,
    )
    provider = FastProvider(
        report=lambda reason: report(Off(reason=reason)),
        resource=resource,
        shutdown_on_exit=False,
        id_generator=StageIdGenerator(),
    )
    provider.add_span_processor(batches)
    # The exporter stays the SDK's, with all of its variables, and has no other door for an encoder.
    encode = partial(otlp.encode, pause=batches.pause)
    trace_exporter.encode_spans = encode  # type: ignore[assignment, attr-defined]
    if provider.off:
        report(Off(reason=provider.off))
    return Pipeline(provider=provider, full=batches.is_full)


def _off() -> Off | None:
    """Why nothing is installed; None when all is."""
    if os.environ.get(names.FAST_VARIABLE, "").strip().lower() in SWITCHED_OFF:
        return Off(reason=f"{names.FAST_VARIABLE} switches it off")
    for package, version in (
        ("opentelemetry-sdk", sdk_version),
        ("opentelemetry-exporter-otlp-proto-http", exporter_version),
    ):
        if not _known(version):
            first, last = (".".join(map(str, each)) for each in (SDK_FIRST, SDK_LAST))
            reason = f"{package} is {version}, and it was written for {first} to {last}"
            return Off(reason=reason, deliberate=False)
    return None


def _known(version: str) -> bool:
    found = _VERSION.match(version)
    return found is not None and SDK_FIRST <= (int(found[1]), int(found[2])) <= SDK_LAST
