"""Which saga the code that runs now works for, so that every line can carry its ids (rule 24).

It follows the task, and into the writer's thread: what an author's function logs, and what the
libraries below it log, can be told apart by saga. A host adds it to its own logging, with
structlog as a processor and with the standard library as a filter of its handlers:

    structlog.configure(processors=[add_ids, ...])
    handler.addFilter(IdsFilter())
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

from stage.ports.observer import TraceContext

_bound: ContextVar[tuple[str, str]] = ContextVar("stage_bound", default=("", ""))
"""Saga id and traceparent; each is empty where there is none."""


def bind(saga_id: str, trace: TraceContext) -> None:
    """From here on this task, and what it starts, works for that saga."""
    _bound.set((saga_id, trace.traceparent))


def add_ids(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: `saga_id` and `trace_id`, unless the line has its own."""
    saga_id, traceparent = _bound.get()
    if saga_id:
        fields.setdefault("saga_id", saga_id)
    if traceparent:
        fields.setdefault("trace_id", traceparent[3:35])
    return fields


class IdsFilter(logging.Filter):
    """For a handler of the standard library: records get `saga_id` and `trace_id`, or "-".

    It lets every record through.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        saga_id, traceparent = _bound.get()
        if not hasattr(record, "saga_id"):
            record.saga_id = saga_id or "-"
        if not hasattr(record, "trace_id"):
            record.trace_id = traceparent[3:35] or "-"
        return True
