"""Which sagas a query names: the parameters of `GET /sagas`, and what an order for many names.

A parameter that is not known, or is empty, is refused: an order would otherwise be for more than
was meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from stage.core.place import PEER_KINDS, UPSTREAMS
from stage.core.states import ParkCause, SagaState
from stage.inbound.former_names import all_names, all_steps
from stage.inbound.service import Service
from stage.ports.store import TRACE_TERM, Filter, Term
from stage.wire.envelope import parse_instant
from stage.wire.problem import WireError

T = TypeVar("T")
Query = Mapping[str, Sequence[str]]

NARROWS: Final = (
    "state", "parked", "cause", "step", "peer", "older_than", "changed_from", "changed_before",
    "number", "trace_id",
)  # fmt: skip
"""The parameters that narrow a list."""
PAGES: Final = ("after", "limit")
TEXT_CHARS_MAX: Final = 256
KINDS: Final = (*dict.fromkeys(PEER_KINDS.values()), UPSTREAMS)
"""The kinds of peers, as the settings name them."""
HINT: Final = (
    f"the parameters are {', '.join(NARROWS)}, and {', '.join(PAGES)} for the page; `stage sagas"
    " --help` says what each means"
)


def filter_of(service: Service, query: Query, limit: int) -> Filter:
    """The filter that a query stands for. Raises WireError 400, or 422 for a number not indexed."""
    if unknown := sorted(set(query) - {*NARROWS, *PAGES}):
        raise not_understood(f"there is no parameter {unknown[0]!r}")
    for name in NARROWS:
        if name in query and not all(query[name] or ("",)):
            raise not_understood(f"`{name}` is empty: leave it out, or give a name")
    after = _text(query, "after") or ""
    if term := _term(service, query):
        return Filter(term=term, after=after, limit=limit)
    try:
        states = tuple(SagaState(state) for state in query.get("state", ()))
        cause = None if (text := _text(query, "cause")) is None else ParkCause(text)
    except ValueError as error:
        words = f"states are {', '.join(SagaState)}; causes are {', '.join(ParkCause)}"
        raise not_understood(f"{error}: {words}") from None
    before = _instant(query, "changed_before")
    if (seconds := _seconds(query, "older_than")) is not None:
        long_ago = service.clock.now() - seconds
        before = long_ago if before is None else min(before, long_ago)
    return Filter(
        states=states,
        parked=_flag(query, "parked"),
        cause=cause,
        steps=() if (step := _text(query, "step")) is None else all_steps(service, step),
        peers=_peers(service, query),
        changed_from=_instant(query, "changed_from"),
        changed_before=before,
        after=after,
        limit=limit,
    )


def _term(service: Service, query: Query) -> Term | None:
    """The one number that is searched for; it stands alone."""
    number, trace_id = _text(query, "number"), _text(query, "trace_id")
    if number is None and trace_id is None:
        return None
    if others := sorted((set(query) & set(NARROWS)) - {"number" if number else "trace_id"}):
        raise not_understood(f"a number is searched for alone, without {', '.join(others)}")
    indexed = service.participant.indexed
    if indexed is None:
        raise _not_indexed("this stage indexes no numbers, so that sagas are found by id alone")
    if number is None:
        return Term(TRACE_TERM, (trace_id or "").lower())
    name, colon, value = number.partition(":")
    if not colon or not value:
        raise not_understood(f"number is {number!r}, and not NAME:VALUE")
    if name not in indexed:
        names = ", ".join(sorted(indexed)) or "none but the trace id"
        raise _not_indexed(f"this stage does not index {name!r}; it indexes {names}")
    return Term(name, value)


def whole_number(
    query: Query, name: str, default: int, *, least: int, most: int | None = None
) -> int:
    """A number of the query, at most `most`. Raises WireError 400."""
    text = query.get(name, [str(default)])[0]
    if not (text.isascii() and text.isdigit() and int(text[:18]) >= least):
        raise not_understood(f"{name} {text!r} is not a number of at least {least}")
    found = int(text[:18])
    return found if most is None else min(found, most)


def not_understood(detail: str) -> WireError:
    """400 for a query that names nothing, with what there is."""
    return WireError(400, "Query not understood", detail, hint=HINT)


def _not_indexed(detail: str) -> WireError:
    return WireError(
        422,
        "Not indexed",
        detail,
        hint="declare Stage(..., indexed={name: path}); it holds for sagas accepted from then on",
    )


def _text(query: Query, name: str) -> str | None:
    values = query.get(name)
    if not values:
        return None
    if len(values) > 1 or len(values[0]) > TEXT_CHARS_MAX:
        raise not_understood(f"{name} is given more than once, or longer than {TEXT_CHARS_MAX}")
    return values[0]


def _peers(service: Service, query: Query) -> tuple[str, ...]:
    """A peer by kind and name, under all names that it has had: it is one peer.

    A bare name would name no saga, as if nothing waited.
    """
    text = _text(query, "peer")
    if text is None:
        return ()
    if text.partition(".")[0] not in KINDS:
        raise not_understood(f"peer is {text!r}, and not KIND.NAME such as {KINDS[0]}.{text}")
    return all_names(service, text)


def _flag(query: Query, name: str) -> bool | None:
    text = _text(query, name)
    if text not in (None, "true", "false"):
        raise not_understood(f"{name} is {text!r}, and neither true nor false")
    return None if text is None else text == "true"


def _instant(query: Query, name: str) -> float | None:
    text = _text(query, name)
    try:
        return None if text is None else parse_instant(text)
    except ValueError as error:
        raise not_understood(f"{name}: {error}") from None


def _seconds(query: Query, name: str) -> float | None:
    text = _text(query, name)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0.0 <= found < math.inf:
        raise not_understood(f"{name} is {text!r}, and not a number of seconds")
    return found
