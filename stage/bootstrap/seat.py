"""The place of one worker among those that serve a stage together."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from stage.engine.workers.placement import Placement


class Seat(msgspec.Struct, frozen=True, kw_only=True):
    """One of `processes`. `folder` is private, and holds the sockets between them.

    `placement` says which of them has a saga; None where all share one database.
    """

    index: int
    processes: int
    folder: Path
    placement: Placement | None = None
    first: Path = Path()
    """The file of worker 0, beside which the list of all lies."""

    def socket_of(self, worker: int) -> Path:
        """Where a worker is asked by the others."""
        return self.folder / f"{worker}.sock"

    def leave(self) -> None:
        """Remove its socket, and the folder behind the last one: their parent was killed."""
        with suppress(OSError):  # others are still there
            self.socket_of(self.index).unlink(missing_ok=True)
            self.folder.rmdir()

    @property
    def takes_sagas(self) -> bool:
        """Whether new sagas are begun here: a former worker has only those that it has."""
        return self.placement is None or self.index < self.placement.takes
