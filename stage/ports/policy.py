"""The policy that an operator sets for one step, or for all calls of one external API."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A member that is None keeps the author's declaration; codes are added to the author's.

    `timeout_seconds` is that of one attempt. `key_lifetime_seconds` is how long the API keeps an
    idempotency key.
    """

    attempts_max: int | None = None
    compensation_attempts_max: int | None = None
    timeout_seconds: float | None = None
    key_lifetime_seconds: float | None = None
    never_retry: tuple[int, ...] = ()
