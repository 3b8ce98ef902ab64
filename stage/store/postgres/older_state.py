"""The refusal of an older state of the database: once found, it holds (decision 0111).

Behind a pooler no connection of ours breaks with a failover, and what proves that something is
missing is forgotten with time. So that the refusal neither waits for a new connection nor ends by
itself: it ends when the same evidence is found again, or with the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

from stage.core.errors import StoreUnavailable
from stage.store.postgres.address import DatabaseServer
from stage.store.postgres.link import Link

Evidence = Callable[[Link], Awaitable[bool]]
"""Whether a database has what was missing. Raises StoreUnavailable for another database."""


class OlderState:
    """The refusal of one process: every connection asks here before it uses the database."""

    def __init__(self, server: DatabaseServer) -> None:
        self._server = server
        self.refusal = ""
        """Says that an older state stands there, and what it lacks; empty: none was found."""
        self.found = 0
        """How often one was found: a connection from before it is not used behind it."""
        self._evidence: Evidence | None = None

    def hold(self, lacks: str, evidence: Evidence) -> NoReturn:
        """Refuse the database from here on, until `evidence` is there again."""
        self.refusal = (
            f"an older state of the database stands at {self._server.shown}: {lacks}. Put the"
            " newer one back, or stop all replicas and accept this one with"
            " `stage db restored --as-of TIME`"
        )
        self.found += 1
        self._evidence = evidence
        raise StoreUnavailable(self.refusal)

    def refuse(self, found: int) -> None:
        """Raise StoreUnavailable while it holds, and for a connection made when `found` was so."""
        if self.refusal:
            raise StoreUnavailable(self.refusal)
        if self.found != found:
            raise StoreUnavailable("an older state of the database stood there: connect anew")

    async def check_again(self, link: Link) -> None:
        """Look by a new connection whether it is over. Raises StoreUnavailable where it is not."""
        evidence = self._evidence
        if not self.refusal or evidence is None:
            return
        try:
            there = await evidence(link)
        except StoreUnavailable as other:  # another database, or generation: a restart mends it
            self.refusal = str(other)
            raise
        if there and self._evidence is evidence:  # and nothing more was missing meanwhile
            self.refusal = ""
        self.refuse(self.found)
