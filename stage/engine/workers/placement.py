"""Which worker has a saga: a hash of its id, by the number of workers when it began.

When that number changes, a saga stays in the file that it was begun in, and new ones go by the new
number. So an id has one home for each number that there was, and an older home is asked before a
saga is begun at the newest.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec


class Placement(msgspec.Struct, frozen=True):
    """The numbers of workers that there were, the present one last."""

    sizes: tuple[int, ...]

    @property
    def members(self) -> int:
        """How many files there are: those that take new sagas, and those that took some before."""
        return max(self.sizes)

    @property
    def takes(self) -> int:
        """How many of them take new sagas: the first ones."""
        return self.sizes[-1]

    def homes(self, saga_id: str) -> tuple[int, ...]:
        """The workers that may have the saga, the one for a new saga first, each once."""
        if len(self.sizes) == 1:
            return (home_of(saga_id, self.sizes[0]),)
        return tuple(dict.fromkeys(home_of(saga_id, size) for size in reversed(self.sizes)))


def home_of(saga_id: str, size: int) -> int:
    """The worker of a saga among so many. It is written down nowhere, and must never change."""
    digest = blake2b(saga_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % size
