"""Starts of which only the frame is read, and the answers to them, which are made beforehand.

To parse a request costs a tenth of a saga. A start that is not framed in the usual way is left to
the parser: a gateway that reads it otherwise would take a part of one request for the next one.
"""

from __future__ import annotations

import re
from random import random
from typing import Final

from stage.inbound.read import key_of
from stage.inbound.request import PROBLEM_JSON
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem

_START = b"POST /sagas HTTP/1.1\r\n"
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_KEY = re.compile(rb"\nidempotency-key:([^\r\n]{1,200})(?=\r\n)", re.IGNORECASE)
_HEADERS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\r\n\x00]*+\r\n)++")
"""Lines that every reader divides in the same way: no bare line break, no blank before a colon."""
_FRAMED_OTHERWISE = re.compile(rb"\n(?:transfer-encoding|expect|upgrade)[ \t]*:", re.IGNORECASE)


def is_whole_start(data: bytes) -> bool:
    """Whether the bytes are exactly one `POST /sagas`, head and body.

    Anything else is left to the parser: a start that came in pieces, or below a prefix.
    """
    if not data.startswith(_START):
        return False
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return False
    if not _HEADERS.fullmatch(data, len(_START), end + 2):
        return False
    lengths = _LENGTH.findall(data, 0, end + 2)
    if _FRAMED_OTHERWISE.search(data, 0, end):
        return False
    return len(lengths) == 1 and len(data) == end + 4 + int(lengths[0])


def key_in(data: bytes) -> str:
    """The saga id that the `Idempotency-Key` in the head of a request says, or nothing."""
    found = _KEY.findall(data, 0, data.find(b"\r\n\r\n") + 2)
    return key_of([value.decode("latin-1") for value in found])


def _raw_503(detail: str, retry_after: int, outcome: Outcome, *more: str) -> bytes:
    problem = Problem(
        status=503,
        title="Not now",
        detail=detail,
        outcome=outcome,
        retryable=True,
        hint="retry under the same saga id after Retry-After seconds",
    )
    body = problem.encode()
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"{PROBLEM_JSON[0]}: {PROBLEM_JSON[1]}",
        f"Retry-After: {retry_after}",
        f"Content-Length: {len(body)}",
        "Server: stage",
        *more,
    )
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


TURNED_AWAY: Final = _raw_503(
    "too many connections are open", 1, Outcome.UNKNOWN, "Connection: close"
)
_OVERLOADED = "there is more to do than can be done"
_SHED = {
    (outcome is Outcome.NOT_EXECUTED, bool(more)): tuple(
        _raw_503(_OVERLOADED, seconds, outcome, *more) for seconds in (1, 2, 3)
    )
    for outcome in (Outcome.NOT_EXECUTED, Outcome.UNKNOWN)
    for more in ((), ("Connection: close",))
}
"""By whether its saga was certainly not seen, and whether the connection ends with it."""


def shed(*, not_seen: bool, ends: bool) -> bytes:
    """The answer to a start that has no place; the pauses that it asks for differ."""
    answers = _SHED[not_seen, ends]
    return answers[int(random() * len(answers))]
