"""A webhook as it came, and what the author's function makes of it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stage.core.events import Webhook
from stage.ports.store import Term


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request of an external API to this stage, before anybody has verified it.

    Names of headers are in lower case. `secrets` are those that the operator has configured for
    the API: several while they are rotated. `now` is the instant at which it came. Its `repr` shows
    none of its contents.
    """

    external: str
    body: bytes
    headers: Mapping[str, str]
    secrets: tuple[bytes, ...]
    now: float

    def __repr__(self) -> str:
        return f"WebhookRequest({self.external})"


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """The word of a webhook: on the call made under `key`, or on the saga with that number."""

    event: Webhook
    key: str = ""
    number: Term | None = None


Said = Heard | Exception | None
"""The end of one webhook function: its word, what it raised, or that no call of its is concerned.

A `NotVerified` says that it did not believe the webhook; it raises anything else behind that.
"""


class NotVerified(Exception):
    """The webhook did not prove where it comes from, or is too old. The text holds no secret."""
