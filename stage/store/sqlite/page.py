"""The statement and the parameters that a Filter stands for."""

from __future__ import annotations

import msgspec

from stage.ports.store import Filter


def page_query(which: Filter) -> tuple[str, tuple[object, ...]]:
    """The name of the statement in `sql/page.sql` and its parameters."""
    states: str | None = None
    if which.states:
        states = msgspec.json.encode([state.value for state in which.states]).decode()
    if which.parked:
        return "page_parked", (which.after, which.limit, states)
    unparked = None if which.parked is None else 0
    if states is not None:
        return "page_states", (which.after, which.limit, states, unparked)
    return "page_all", (which.after, which.limit, unparked)
