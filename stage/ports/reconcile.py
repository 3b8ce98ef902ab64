"""A question to the neighbours of a stage that is up: sagas that its database lost (rule 33)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Protocol

import msgspec

from stage.core.lost import Word
from stage.core.states import SagaState
from stage.wire.outcome import Outcome


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """A saga that is not in the database, with the words of the neighbours that list it.

    `asked_by` has asked to compensate it meanwhile. Without `may_stand` upstream has the word of
    this stage that nothing of it stands.
    """

    saga_id: str
    words: tuple[Word, ...] = ()
    asked_by: str = ""
    may_stand: bool = True


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A saga that is in the database, and of which a neighbour says something else."""

    saga_id: str
    state: SagaState
    neighbour: str
    said: Outcome


UNREADABLE: Final = "UNREADABLE"
"""In place of the opener of a saga whose envelope cannot be read; no neighbour has such a name."""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The answers of the neighbours to one question. Instants in seconds since the epoch.

    `asked` has how many sagas each listed, `dropped` how many of these were dropped here for their
    age, `unanswered` why one could not be asked, `unnamed` how many sagas of the database were
    opened by each name that is no configured neighbour. `adopted` are the sagas that were taken
    over. `counts` is False where the neighbours were asked from later than the backup: no release
    follows from what they say. `called_otherwise` says why missing sagas may have made their calls
    under other names than those of this release.
    """

    since: float
    asked: Mapping[str, int]
    unanswered: Mapping[str, str]
    unnamed: Mapping[str, int]
    missing: tuple[Missing, ...]
    differences: tuple[Difference, ...]
    dropped: Mapping[str, int] = {}
    adopted: tuple[str, ...] = ()
    counts: bool = True
    called_otherwise: str = ""


class Adopt(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the missing sagas a person takes over, and why. None: all of them.

    Neighbours list the sagas of every shard of a stage, so that all are taken over only with
    `no_other_shard`, a person's word that the stage has no other one. `under_these_names` is the
    word that they made their calls under the names of this release, where a saga of the database
    did not (decision 0112).
    """

    actor: str
    reason: str
    saga_ids: Collection[str] | None = None
    no_other_shard: bool = False
    under_these_names: bool = False


class NotReconcilable(Exception):
    """Nobody can be asked, or nothing may be taken over now; the message has the fix."""


class Reconciles(Protocol):
    """Asks the neighbours, and takes over what a person orders."""

    async def __call__(
        self, *, since: float | None, without: Mapping[str, str], adopt: Adopt | None
    ) -> Findings:
        """Ask every neighbour but those `without`, which have a reason each.

        Without an order to adopt nothing is changed. Raises NotReconcilable, and StoreUnavailable.
        """
        ...
