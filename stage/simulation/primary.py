"""The server that a database of several processes stands on, and the standby behind it.

While the primary is lost nothing can be read or written. The standby that takes its place has all
that was answered, or is older: then it lacks the last commits, and each process that had a batch or
a renewal of its own among them refuses it (decision 0059).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from stage.core.errors import StoreUnavailable

LOOK_SECONDS = 0.1
"""How often a process tries to reach the database again."""
COMMIT_WAIT_SECONDS = 2.0
"""So long a loss that is to strike in a COMMIT waits for one."""


class Primary:
    """Which server stands there, and what each process knows of its own that must be on it."""

    def __init__(self, served: Callable[[str], None]) -> None:
        """`served` is notified of a process that uses an older state though it could know."""
        self._served = served
        self.losses = 0
        """How often the primary was lost: a COMMIT that was under way then is in doubt."""
        self.lost = False
        self.older = False
        """Whether a standby that lacks commits stands in its place."""
        self.alone = asyncio.Lock()
        """Held over one loss, until its end."""
        self._commit: asyncio.Future[None] | None = None
        """Set while somebody waits for the next COMMIT to begin."""
        self._batches: Counter[str] = Counter()
        self._renewals: Counter[str] = Counter()
        self._copied: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    # --- of a process -----------------------------------------------------------------------------

    def begins_commit(self) -> None:
        """A COMMIT is under way from now on."""
        if self._commit is not None and not self._commit.done():
            self._commit.set_result(None)

    def wrote(self, process: str) -> None:
        """A batch of that process is durable."""
        self._batches[process] += 1

    def renewed(self, process: str) -> None:
        """Its lease was renewed."""
        self._renewals[process] += 1

    def check(self, process: str) -> None:
        """Raise StoreUnavailable where the process finds no server, or an older state of its own.

        A process that has nothing by which to tell goes on: nobody else may let it.
        """
        if self.lost:
            raise StoreUnavailable("the primary is lost")
        if self.older:
            if self.lacks(process):
                raise StoreUnavailable("an older state of the database stands there")
            self._served(process)

    def lacks(self, process: str) -> bool:
        """Whether a batch or a renewal of the process is missing: the rule of the product."""
        batches, renewals = self._copied
        lacks_batch = self._batches[process] > batches[process]
        return lacks_batch or self._renewals[process] > renewals[process]

    async def settled(self, process: str, *, landed: bool) -> bool:
        """Wait until the commit in doubt can be looked for; whether it landed (rule 8)."""
        while True:
            try:
                self.check(process)
                return landed
            except StoreUnavailable:
                await asyncio.sleep(LOOK_SECONDS)

    # --- of the world -----------------------------------------------------------------------------

    def cut(self) -> None:
        """From here on the standby hears nothing any more."""
        self._copied = Counter(self._batches), Counter(self._renewals)

    async def next_commit(self) -> None:
        """Return as soon as a COMMIT is under way, or when none has begun for a while."""
        self._commit = asyncio.get_running_loop().create_future()
        await asyncio.wait([self._commit], timeout=COMMIT_WAIT_SECONDS)
        self._commit = None

    def lose(self) -> None:
        """The primary is gone."""
        self.lost = True
        self.losses += 1

    def promote(self, *, older: bool) -> None:
        """The standby takes its place."""
        self.lost, self.older = False, older

    def accept(self) -> None:
        """The server that stands there has the database from now on."""
        self.lost = self.older = False

    def cannot_know(self, process: str) -> bool:
        """Whether a process has done nothing since the standby was cut off: the gap of 0059."""
        batches, renewals = self._copied
        since = self._batches[process] - batches[process]
        return not since + self._renewals[process] - renewals[process]
