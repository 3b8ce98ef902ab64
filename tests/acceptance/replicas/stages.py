"""The payment stage of the kills as a replica, which writes down each stale write of its own.

refused SAGA_ID        the database has another epoch, length or owner
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from stage.core.errors import StaleEpoch
from stage.store.connection import CommitRefused
from stage.store.postgres.connection import PostgresConnection
from tests.acceptance.kills import stages

REFUSED = "refused"


class WatchedConnection:
    """The refusals of `PostgresConnection`, written to standard error."""

    refuse = PostgresConnection._refuse

    async def written(self: Any, saga_id: str) -> None:
        """Refuse as before; a stale write leaves a line."""
        try:
            await WatchedConnection.refuse(self, saga_id)
        except CommitRefused as refused:
            if isinstance(refused.__cause__, StaleEpoch):
                print(f"{REFUSED} {saga_id}", file=sys.stderr, flush=True)
            raise


def main(arguments: Sequence[str]) -> int:
    """`stage serve` with the stage of that name."""
    PostgresConnection._refuse = WatchedConnection.written  # type: ignore[method-assign]
    return stages.main(arguments)
