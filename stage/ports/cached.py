"""A look wants the word of now: an answer that a cache has kept is no answer to it.

A cache between us and a peer may keep a 404 for a minute, unless the peer forbids that. Two looks
within it see one moment, and a call that has landed since would be made again.
"""

from __future__ import annotations

from stage.ports.stage import Answer, Lost
from stage.wire import headers as h

SECONDS_CHARS_MAX = 10
_AGE = h.AGE.lower()


def of_now(answer: Answer | Lost) -> Answer | Lost:
    """The answer, or Lost where its header `Age` says that it was kept (RFC 9111, section 5.1)."""
    if isinstance(answer, Lost):
        return answer
    kept = [value.strip() for name, value in answer.headers if name.lower() == _AGE]
    if not any(value.strip("0") for value in kept):
        return answer
    return Lost(
        reason=f"answered {answer.status} by a cache, of {kept[0][:SECONDS_CHARS_MAX]} s ago",
        error=str(answer.status),
    )
