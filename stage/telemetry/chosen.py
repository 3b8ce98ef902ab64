"""A span id that is chosen: the recovery reports a cut-off attempt under the id that is stored.

What repeated, probed or undid the attempt links to that id, and so did other processes before the
crash. A provider takes ids from its generator alone, so it must be made with `ids.StoredIds`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

CHOSEN: ContextVar[int] = ContextVar("stage_chosen_span_id", default=0)
"""0 when none is chosen."""


@contextmanager
def chosen_span_id(span_id: int) -> Iterator[None]:
    """Whatever span is started within has that id, where the provider allows it."""
    token = CHOSEN.set(span_id)
    try:
        yield
    finally:
        CHOSEN.reset(token)
