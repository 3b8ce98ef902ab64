"""The sagas of a database that fit no version of the code that is to be deployed (rule 32).

Each is judged by its journal as at the start of its next run, before there is one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from stage.core.bindings import MEND, bound_steps, difference
from stage.core.errors import NewerJournal
from stage.ports.codec import Codec
from stage.ports.stage import Participant, family_of
from stage.ports.store import Row
from stage.store import rows

if TYPE_CHECKING:
    from stage.bootstrap.database_files import Databases

UNFINISHED_MAX: Final = 10_000
"""Journals of unfinished sagas that are read in each file."""
COMPLETED_MAX: Final = 1_000
"""Journals of the latest completed sagas that are read in each file."""
REASONS_MAX: Final = 10
"""Differences that are told apart: each may name a step, an API and a key."""


class Misfits(msgspec.Struct, frozen=True, kw_only=True):
    """The sagas that a stage could not go on with, a line for each version or difference."""

    unfinished: list[str]
    """They would be parked."""
    completed: list[str]
    """They could not be compensated."""
    newer: list[str]
    """A newer version accepted them: they would be left alone."""


def misfits_in(databases: Databases, newest: Participant, codec: Codec) -> Misfits:
    """The misfits in all files together. Raises ConfigurationError for a key that is missing."""
    judge = _Judge(newest, codec)
    for database in databases:
        codec.admit([key for (key,) in database.read("payload_keys")])
        judge.count(database.read("unfinished_versions"))
        for found, name, most in (
            (judge.unfinished, "unfinished_sagas", UNFINISHED_MAX),
            (judge.completed, "latest_completed", COMPLETED_MAX),
        ):
            for saga_id, version in database.read(name, most):
                if judge.reads(version):
                    judge.compare(found, saga_id, version, database.read("get_journal", saga_id))
    return judge.misfits()


class _Judge:
    """Counts what does not fit: by version, and by version and difference."""

    def __init__(self, newest: Participant, codec: Codec) -> None:
        self._newest = newest.plan
        self._plans = {each.plan.version: each.plan for each in family_of(newest)}
        self._codec = codec
        self._by_version: Counter[int] = Counter()
        self.unfinished: Counter[tuple[int, str]] = Counter()
        self.completed: Counter[tuple[int, str]] = Counter()

    def count(self, counted: Sequence[Row]) -> None:
        """Take the numbers of unfinished sagas by version, which are exact."""
        for version, sagas in counted:
            self._by_version[version] += sagas

    def reads(self, version: int) -> bool:
        """Whether the journal says more than the version does."""
        return version in self._plans

    def compare(
        self,
        found: Counter[tuple[int, str]],
        saga_id: str,
        version: int,
        entries: Sequence[Row],
    ) -> None:
        """Compare a saga with the plan of its version; one of a newer release is left to that."""
        try:
            journal = [rows.entry(saga_id, each, self._codec) for each in entries]
        except NewerJournal:
            return
        except (msgspec.MsgspecError, ValueError) as error:
            found[version, f"its journal cannot be read ({type(error).__name__})"] += 1
            return
        bound = bound_steps(entry.event for entry in journal)
        if differs := difference(self._plans[version], saga_id, bound):
            found[version, differs] += 1

    def misfits(self) -> Misfits:
        """All that was found, in words."""
        by_version = sorted(self._by_version.items())
        undeclared = [
            f"{_sagas(sagas, version)} in flight, and would be parked, as that version is not"
            f" declared here: {MEND}, or let the release that has them end them first"
            for version, sagas in by_version
            if version < self._newest.version and version not in self._plans
        ]
        newer = [
            f"{_sagas(sagas, version)} in flight, and would be left alone: that is a newer version,"
            " and they wait until it runs again"
            for version, sagas in by_version
            if version > self._newest.version
        ]
        parked = _lines(self.unfinished, "in flight, and would be parked")
        return Misfits(
            unfinished=undeclared + parked,
            completed=_lines(self.completed, "completed, and could not be compensated"),
            newer=newer,
        )


def _lines(found: Counter[tuple[int, str]], which: str) -> list[str]:
    shown = found.most_common(REASONS_MAX)
    lines = [
        f"{_sagas(sagas, version)} {which}: {differs}; {MEND}"
        for (version, differs), sagas in shown
    ]
    if more := found.total() - sum(sagas for _, sagas in shown):
        lines.append(f"{more} sagas more are {which}, for other reasons")
    return lines


def _sagas(number: int, version: int) -> str:
    return (
        f"1 saga of version {version} is" if number == 1 else f"{number} of version {version} are"
    )
