"""The generator of ids for a tracer provider that reports cut-off attempts.

Our own provider is made with it. A host that wants these attempts in its traces does the same:

    TracerProvider(id_generator=StageIdGenerator())
"""

from __future__ import annotations

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from stage.telemetry.span_id_override import SPAN_ID_OVERRIDE


class StageIdGenerator(RandomIdGenerator):
    """Random ids, except where the id of a span is overridden (telemetry.span_id_override)."""

    def generate_span_id(self) -> int:
        """A random id, or the overriding one."""
        return SPAN_ID_OVERRIDE.get() or super().generate_span_id()
