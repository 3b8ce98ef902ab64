"""The statement and the parameters that a Filter stands for."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from stage.ports.codec import Codec
from stage.ports.store import Filter


def page_query(which: Filter, codec: Codec) -> tuple[str, tuple[object, ...]]:
    """The name of the statement in `sql/page.sql` and its parameters."""
    page = (which.after, which.limit)
    if which.term is not None:
        known = codec.known_terms(which.term.name, which.term.value)
        return "page_term", (*page, which.term.name, _array(known))
    states = _array([state.value for state in which.states]) if which.states else None
    bounds = (which.changed_from, which.changed_before)
    if which.waiting:
        parked = None if which.parked is None else int(which.parked)
        cause = None if which.cause is None else which.cause.value
        names = (_array(each) if each else None for each in (which.steps, which.peers))
        return "page_waiting", (*page, states, parked, cause, *names, *bounds)
    unparked = None if which.parked is None else 0
    if states is not None:
        return "page_states", (*page, states, unparked, *bounds)
    if which.changed_from is not None and unparked is None:
        return "page_since", (*page, *bounds)
    return "page_all", (*page, unparked, *bounds)


def _array(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()
