"""The generator of ids for a tracer provider that reports cut-off attempts too.

Ours is made with it. A host that wants them in its traces does the same:

    TracerProvider(id_generator=StoredIds())
"""

from __future__ import annotations

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from stage.telemetry.chosen import CHOSEN


class StoredIds(RandomIdGenerator):
    """Random ids, unless one is chosen (telemetry.chosen)."""

    def generate_span_id(self) -> int:
        """A random id, or the chosen one."""
        return CHOSEN.get() or super().generate_span_id()
