"""The idempotency key of an act: a repeat under it does nothing, and is answered as the first was.

A proxy, a browser or an operator may send an order twice, and the second copy may come hours later
(rule 14, decision 0092).
"""

from __future__ import annotations

from typing import Final

import msgspec

ACT_KEY_SECONDS_MAX: Final = 7 * 86_400.0
"""How long a key is kept: no copy of a request is under way for longer."""


class ActKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The key that the client gave, and a digest of all that it ordered under it."""

    key: str
    digest: str


class KeptAct(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the order under a key.

    `refused` says why it was not done; empty where it was. `sweep` is the number of the sweep that
    it began, 0 where it began none.
    """

    digest: str
    at: float
    refused: str = ""
    sweep: int = 0
