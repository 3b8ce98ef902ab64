"""The part of a transaction that belongs to one unit: what can be undone, and what went wrong.

Only the unit holds it; the author of a transaction function gets `author_tx` (tx.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from stage.core.errors import StoreUnavailable
from stage.ports.store import Row
from stage.store.errors import StatementRefused
from stage.store.postgres.errors import away, contended, interrupted, unavailable
from stage.store.postgres.link import Link
from stage.store.postgres.steps import Asked

T = TypeVar("T")

ENDED: Final = "a statement ended the transaction it ran in: raise to roll back, return to commit"


class Part:
    """Runs statements within one unit. Once the unit is over, every method raises."""

    __slots__ = ("_link", "broken", "failure", "marked")

    def __init__(self, link: Link) -> None:
        self._link: Link | None = link
        self.failure: StoreUnavailable | None = None
        """Set when the database failed under this unit: the unit fails even if it goes on."""
        self.broken: Exception | None = None
        """The error that broke the transaction; nothing works in it until it is undone."""
        self.marked = False
        """True once a savepoint marks the place to which this part can be undone."""

    def end(self) -> None:
        """End the part: a reference to its tx that was kept cannot write into the next unit."""
        self._link = None

    def check(self) -> Link:
        """The connection. Raises StatementRefused when the unit is over."""
        if self._link is None:
            raise StatementRefused("this transaction is over: keep no reference to its tx")
        return self._link

    async def rows(self, name: str, *parameters: object) -> list[Row]:
        """The rows of a statement of ours."""
        self.check()
        work = partial(self._run, lambda: self._own(name, parameters), ours=True)
        found: list[Row] = await Asked(work)
        return found

    async def author(self, sql: str, parameters: tuple[Any, ...]) -> tuple[list[Row], str]:
        """Run a statement of the author, after a mark; its rows and the server's word."""
        self.check()

        async def work() -> tuple[list[Row], str]:
            if not self.marked:
                await self.mark()
            return await self.check().author(sql, parameters)

        answer: tuple[list[Row], str] = await Asked(partial(self._run, work, ours=False))
        return answer

    async def mark(self) -> None:
        """Mark the place to which later statements can be undone. Called by the writer's task."""
        if self.broken is not None:
            self.refuse_broken()
        await self._script("begin_part")
        self.marked = True

    async def keep(self) -> None:
        """Keep what was written since the mark. Called by the writer's task."""
        await self._script("keep_part")

    def refuse_broken(self) -> None:
        """Raise StatementRefused where the author's code went on behind a statement that failed."""
        if self.broken is not None:
            raise StatementRefused(
                f"a statement failed ({self.broken}), and PostgreSQL gives up what stands with it:"
                " let its error out, or write ON CONFLICT"
            ) from self.broken
        self._refuse_ended()

    async def undo(self, *, keep: bool = False) -> None:
        """Undo what was written since the mark. Called by the writer's task.

        The mark stays; one that is not to be kept is hidden by the next one of the same name.
        """
        link = self.check()
        if self.failure is not None or not self.marked:
            return
        if not (link.in_transaction or link.closed):
            return  # a statement of the author ended it, and nothing is left to be undone
        await self._script("undo_part")
        if not keep:
            await self._script("keep_part")
        self.broken = None

    async def _own(self, name: str, parameters: tuple[object, ...]) -> list[Row]:
        return await self.check().fetch(name, *parameters)

    async def _script(self, name: str) -> None:
        """Divide the transaction. Raises StoreUnavailable, for nothing of the author is in it."""
        try:
            await self.check().script(name)
        except Exception as error:
            self.failure = interrupted(error) or away(error)
            raise self.failure from error

    async def _run(self, work: Callable[[], Awaitable[T]], *, ours: bool) -> T:
        """Await `work`. Raises StoreUnavailable, or the error of a wrong statement as it is."""
        self._refuse_ended()
        try:
            return await work()
        except Exception as error:
            closed = self.check().closed
            failure = unavailable(error, closed=closed) or (
                interrupted(error) if ours else contended(error)
            )
            if failure is not None:
                self.failure = failure
                raise failure from error
            self.broken = error
            raise

    def _refuse_ended(self) -> None:
        """Raise StatementRefused where a statement ended the transaction.

        StoreUnavailable where the server did, and the connection with it.
        """
        link = self.check()
        if link.in_transaction:
            return
        if not link.closed:
            raise StatementRefused(ENDED)
        if self.failure is None:
            self.failure = StoreUnavailable("PostgreSQL: the server closed the connection")
        raise self.failure
