"""The headers of the protocol: their names, and the one reading of each."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from stage.wire.problem import WireError
from stage.wire.strict_json import quoted

SAGA_BUDGET_MS = "Saga-Budget-Ms"
SAGA_ID = "Saga-Id"
TRACE_ID = "Trace-Id"
IDEMPOTENCY_KEY = "Idempotency-Key"
IDEMPOTENCY_REPLAYED = "Idempotency-Replayed"
PREFER = "Prefer"
PREFERENCE_APPLIED = "Preference-Applied"
RETRY_AFTER = "Retry-After"
LOCATION = "Location"
TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
BAGGAGE = "baggage"
CACHE_CONTROL = "Cache-Control"
NO_CACHE = (CACHE_CONTROL, "no-cache")
"""A request with it takes no stored answer that its origin does not confirm (RFC 9111)."""
AGE = "Age"

CONTENT_JSON = "application/json"

BUDGET_SECONDS_MAX = 604_800.0
"""A week. A larger budget is taken as this one, and holds over the deadline in the envelope."""
WAIT_SECONDS_MAX = 60.0
PREFER_CHARS_MAX = 1_024
"""Longer preferences are ignored as a whole."""

_USUAL_CONTENT_TYPES = frozenset(
    {CONTENT_JSON, "application/json; charset=utf-8", "application/json;charset=utf-8"}
)
_BUDGET = re.compile(r"[0-9]{1,15}")
_ACT_KEY = re.compile(r"[!#-\[\]-~]{1,255}")
"""The characters of a string of RFC 8941 that need no escape, without blanks."""
_SECONDS = re.compile(r"[0-9]{1,9}")
# One element of a list, commas in quoted strings included. A string that is not closed takes all
# that follows, so that no character is looked at twice.
_ELEMENT = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))++')
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of RFC 9110, 5.6.2
_PREFERENCE = re.compile(
    rf'[ \t]*+({_TOKEN})[ \t]*+(?:=[ \t]*+({_TOKEN}|"(?:[^"\\]|\\.)*")?)?[ \t]*+(?:;.*)?'
)


class Prefer(msgspec.Struct, frozen=True, kw_only=True):
    """The preferences of a caller (RFC 7240): how long to wait in seconds, or not at all."""

    wait: float | None = None
    respond_async: bool = False


def check_content_type(value: str | None, encoding: str | None = None) -> None:
    """Raise WireError (415) unless the body is plain JSON in UTF-8.

    `value` is the header Content-Type, `encoding` the header Content-Encoding.
    """
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise WireError(
            415,
            "Encoding not accepted",
            f"Content-Encoding is {quoted(encoding)}",
            hint="send the body as it is, without Content-Encoding",
        )
    if value in _USUAL_CONTENT_TYPES:
        return
    media_type, *parameters = (value or "").lower().split(";")
    if media_type.strip() != CONTENT_JSON:
        raise WireError(
            415,
            "Content type not accepted",
            f"Content-Type is {quoted(value)}" if value else "Content-Type is missing",
            hint=f"send Content-Type: {CONTENT_JSON}",
        )
    for parameter in parameters:
        name, _, charset = (part.strip() for part in parameter.partition("="))
        if name == "charset" and charset not in ("utf-8", '"utf-8"'):
            raise WireError(
                415,
                "Charset not accepted",
                f"the charset is {quoted(charset)}",
                hint="send JSON in UTF-8",
            )


def parse_budget_ms(values: Sequence[str]) -> float | None:
    """The budget in seconds from all `Saga-Budget-Ms` headers of a request; None without one.

    Raises WireError (400) for more than one, and for anything but a whole number of milliseconds.
    """
    if not values:
        return None
    if len(values) > 1:
        raise WireError(
            400,
            "Header sent twice",
            f"{SAGA_BUDGET_MS} stands {len(values)} times in the request",
            hint="send it once",
        )
    text = values[0].strip(" \t")
    if not _BUDGET.fullmatch(text):
        raise WireError(
            400,
            "Budget not understood",
            f"{SAGA_BUDGET_MS} is {quoted(text)}",
            hint="send a whole number of milliseconds, in at most 15 digits",
        )
    return min(int(text) / 1000, BUDGET_SECONDS_MAX)


def parse_prefer(values: Sequence[str]) -> Prefer:
    """The preferences in all `Prefer` headers of a request.

    Never raises: a preference that is unknown or malformed is ignored (RFC 7240, 2). The first of
    two with one name holds. `wait` is whole seconds and cut to WAIT_SECONDS_MAX.
    """
    preferences: dict[str, str] = {}
    text = ",".join(values)
    if len(text) <= PREFER_CHARS_MAX:
        for element in _ELEMENT.findall(text):
            if found := _PREFERENCE.fullmatch(element):
                preferences.setdefault(found[1].lower(), (found[2] or "").strip('"'))
    wait = preferences.get("wait", "")
    return Prefer(
        wait=min(float(wait), WAIT_SECONDS_MAX) if _SECONDS.fullmatch(wait) else None,
        respond_async=preferences.get("respond-async") == "",
    )


def parse_act_key(values: Sequence[str]) -> str | None:
    """The key of all `Idempotency-Key` headers of an operator's order; None without one.

    Plain, or as a quoted string. Raises WireError (400) for more than one, and for anything but 1
    to 255 printable characters of ASCII without blanks.
    """
    if not values:
        return None
    key = values[0].strip(" \t")
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not _ACT_KEY.fullmatch(key):
        raise WireError(
            400,
            "Idempotency key not understood",
            f"{IDEMPOTENCY_KEY} is {quoted(', '.join(values))}",
            hint="send one key of 1 to 255 printable characters without blanks, such as a UUID",
        )
    return key


def check_idempotency_key(values: Sequence[str], saga_id: str) -> None:
    """Raise WireError (422) when an `Idempotency-Key` header is there and is not the saga id.

    Plain, or as a quoted string (RFC 8941, 3.3.3); a saga id holds nothing that needs an escape.
    """
    for value in values:
        key = value.strip(" \t")
        if key not in (saga_id, f'"{saga_id}"'):
            raise WireError(
                422,
                "Idempotency key differs from the saga id",
                f"{IDEMPOTENCY_KEY} is {quoted(key)}, saga_id is {quoted(saga_id)}",
                hint="send the saga id as the key, or no key",
            )
