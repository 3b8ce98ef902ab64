"""The books of the payment provider: what was really charged and refunded, kept in memory."""

from __future__ import annotations

from typing import Any

import msgspec

KEYS_MAX = 100_000
"""Books that are full refuse new keys. They never forget a charge."""
SEEN_MAX = 100
"""How many requests are remembered one by one under a key; the earlier ones are only counted."""


class BooksFullError(Exception):
    """The books hold KEYS_MAX keys."""


class Seen(msgspec.Struct, frozen=True):
    """One request that arrived, and the trace it belongs to."""

    method: str
    path: str
    traceparent: str | None


class Answer(msgspec.Struct, frozen=True):
    """An answer as bytes, so that a repeat gets the same ones."""

    status: int
    body: bytes


class Entry(msgspec.Struct):
    """All that happened under one key."""

    key: str
    amount: int = 0
    charge_id: str | None = None
    made: int = 0
    refunded: int = 0
    closed: bool = False
    """Refunded before it was charged: a tombstone, a late charge is refused."""
    pending: bool = False
    """Taken on, and charged once the customer has confirmed it."""
    asked: Any = None
    """The decoded body of the first charge request that was answered or had its effect."""
    answer: Answer | None = None
    requests: int = 0
    seen: list[Seen] = []

    @property
    def standing(self) -> int:
        """How many charges under this key are not refunded."""
        return self.made - self.refunded

    def remember(self, seen: Seen) -> None:
        """Note that a request arrived for this key."""
        self.requests += 1
        self.seen.append(seen)
        del self.seen[:-SEEN_MAX]

    def refund(self) -> int:
        """Refund the charge if it stands; without a charge, close the key. The amount refunded."""
        amount = self.standing * self.amount
        self.closed = self.closed or not self.made
        self.refunded = self.made
        return amount

    def as_json(self) -> dict[str, Any]:
        """The entry in the answer to `GET /charges`."""
        return {
            "key": self.key,
            "amount": self.amount,
            "charge_id": self.charge_id,
            "made": self.made,
            "refunded": self.refunded,
            "standing": self.standing,
            "closed": self.closed,
            "requests": self.requests,
            "seen": [msgspec.to_builtins(seen) for seen in self.seen],
        }


class Books:
    """The entries by key, and the answers to refunds by the key of the refund itself."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.refunds: dict[str, tuple[str, Answer]] = {}
        self._charges = 0

    def entry(self, key: str) -> Entry:
        """The entry of a key, opened if there is none. Raises BooksFullError."""
        if key not in self.entries:
            if len(self.entries) >= KEYS_MAX:
                raise BooksFullError
            self.entries[key] = Entry(key)
        return self.entries[key]

    def by_charge_id(self, charge_id: str) -> Entry | None:
        """The entry of a charge."""
        found = (entry for entry in self.entries.values() if entry.charge_id == charge_id)
        return next(found, None)

    def charge(self, entry: Entry, amount: int) -> None:
        """Make the charge. This is the effect that the world remembers."""
        self._charges += 1
        entry.amount = amount
        entry.charge_id = f"ch_{self._charges:06d}"
        entry.made += 1

    def totals(self) -> dict[str, int]:
        """The sums over all keys."""
        entries = self.entries.values()
        return {
            "made": sum(entry.made for entry in entries),
            "refunded": sum(entry.refunded for entry in entries),
            "standing": sum(entry.standing for entry in entries),
            "amount_standing": sum(entry.amount * entry.standing for entry in entries),
            "requests": sum(entry.requests for entry in entries),
        }
