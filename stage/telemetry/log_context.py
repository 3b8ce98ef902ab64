"""Binds the ids of a saga to the running context, so that every log line can carry them (rule 24).

The binding follows the task, and into the writer's thread: lines of an author's function, and of
the libraries below it, have the ids of their saga. A host adds it to its own logging, with
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

_bound: ContextVar[tuple[str, TraceContext]] = ContextVar(
    "stage_log_context", default=("", TraceContext())
)
"""Saga id and trace; each is empty where there is none."""


def bind(saga_id: str, trace: TraceContext) -> None:
    """From here on this task, and the tasks it starts, work for that saga."""
    _bound.set((saga_id, trace))


def add_ids(
    _logger: Any, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A structlog processor: `saga_id` and `trace_id`, unless the line has its own."""
    saga_id, trace = _bound.get()
    if saga_id:
        fields.setdefault("saga_id", saga_id)
    if trace.traceparent:
        fields.setdefault("trace_id", trace.trace_id)
    return fields


class IdsFilter(logging.Filter):
    """For a handler of the standard library: records get `saga_id` and `trace_id`, or "-".

    It lets every record through.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        saga_id, trace = _bound.get()
        if not hasattr(record, "saga_id"):
            record.saga_id = saga_id or "-"
        if not hasattr(record, "trace_id"):
            record.trace_id = trace.trace_id or "-"
        return True
