"""Gives a new span an id that is known already, as a cut-off attempt needs it.

The recovery reports such an attempt under the id that the journal holds: what repeated, probed or
compensated the attempt links to that id, and so did other processes before the crash. A provider
takes ids from its generator alone, so it must be made with `id_generator.StageIdGenerator`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SPAN_ID_OVERRIDE: ContextVar[int] = ContextVar("stage_span_id_override", default=0)
"""0 for none."""


@contextmanager
def override_span_id(span_id: int) -> Iterator[None]:
    """A span that is started within has that id, where the provider allows it."""
    token = SPAN_ID_OVERRIDE.set(span_id)
    try:
        yield
    finally:
        SPAN_ID_OVERRIDE.reset(token)
