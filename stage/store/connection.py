"""The ports of the writer: one connection that writes, and a fresh one after trouble.

The methods of `Connection` are coroutines, so that one writer serves every database. Where the
connection lives in a thread (SQLite), they block that thread and never suspend; where it lives in
the event loop, they await. `Home.run` awaits a coroutine of the writer in the right place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from stage.store.queue import Waiting

T = TypeVar("T")


class CommitRefused(Exception):
    """The database refused to commit what the units wrote, such as a deferred constraint.

    The batch is rolled back, and it is not in doubt. `__cause__` is the error of the database.
    """

    def __init__(self, *, again: bool = False) -> None:
        super().__init__()
        self.again = again
        """True where a unit that is run again sees what it ran into, and may decide otherwise."""


class Connection(Protocol):
    """The connection that writes. It runs one batch at a time, in one database transaction."""

    async def begin(self, *, patient: bool) -> None:
        """Begin a batch. Raises StoreUnavailable, and then nothing has begun.

        `patient`: a lock that somebody else holds is waited for; otherwise for a moment only.
        """
        ...

    async def run_units(self, units: Sequence[Waiting]) -> Waiting | None:
        """Run the units of the batch, each within its context, and give each its outcome.

        A unit that raises is undone alone; StoreUnavailable stands in place of an error of the
        database that means so. Where it cannot be undone alone, the transaction is gone, and
        everything written in it: that unit is returned, and those behind it were not run.
        """
        ...

    async def number(self, number: int) -> None:
        """Write the number of the batch, and all that its units left to be written.

        Raises StoreUnavailable and CommitRefused; the batch is rolled back then.
        """
        ...

    async def commit(self) -> None:
        """Make the batch durable. Raises CommitRefused; after any other error it is in doubt."""
        ...

    async def drop(self) -> None:
        """Roll the batch back, as far as the connection still can. Raises nothing."""
        ...

    async def scrub(self, clean: set[str]) -> None:
        """See ports.store.Store, between two batches. Raises StoreUnavailable."""
        ...

    async def last_number(self) -> int:
        """The number of the last batch that is durable."""
        ...

    async def landed(self, number: int) -> bool:
        """Whether the batch of that number is durable, once its own connection is gone for good.

        Raises StoreUnavailable when that cannot be found out now.
        """
        ...


class Home(Protocol):
    """Where the connection lives, as it is reached from the event loop."""

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Await `work(connection)` there. It awaits nothing but the connection and the queue.

        Cancelling the wait does not stop the work where it runs in a thread.
        """
        ...


class Connections(Protocol):
    """Gives the writer a new connection after trouble."""

    async def reopen(self) -> Home:
        """Close every connection to the database and open it again. Raises StoreUnavailable."""
        ...
