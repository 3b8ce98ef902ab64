"""The terms by which a saga is found: the business numbers in its payload, and its trace id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stage.engine.saga.context import Context
from stage.ports.store import TRACE_TERM, Term

TERM_CHARS_MAX: Final = 200
"""A longer value is no number that anybody types: the saga is not found by it."""


def terms_of(context: Context, indexed: Mapping[str, str] | None) -> list[Term]:
    """The terms of a saga that is accepted; none where the stage indexes nothing.

    `indexed` has the path of a member of `data` by the name of the number: `customer.number`.
    """
    if indexed is None or context.envelope is None:
        return []
    found = []
    for name, path in indexed.items():
        value = _text(member_at(context.data, path))
        if value and len(value) <= TERM_CHARS_MAX:
            found.append(Term(name, value))
    if context.trace.trace_id:
        found.append(Term(TRACE_TERM, context.trace.trace_id))
    return found


def member_at(data: Mapping[str, Any], path: str) -> Any:
    """The member at a path such as `customer.number`; None where there is none."""
    value: Any = data
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _text(value: Any) -> str:
    """A number as people write it; empty for a value that is no number or text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)
