"""The declared versions of the stage, and the one under which a saga runs (rule 32)."""

from __future__ import annotations

from collections.abc import Sequence

from stage.core import events as e
from stage.core.bindings import MEND, bound_steps, difference, hash_of, journaled_plan
from stage.core.saga import Saga
from stage.core.steps import Plan
from stage.ports.stage import Participant, family_of
from stage.ports.store import Entry


class Versions:
    """One stage with those that it supersedes."""

    def __init__(self, newest: Participant) -> None:
        self.newest = newest
        self._by_version = {each.plan.version: each for each in family_of(newest)}
        self._hashes = {number: hash_of(each.plan) for number, each in self._by_version.items()}
        self.plan_hash = self._hashes[newest.plan.version]
        """The hash of the newest plan."""

    def of(self, saga: Saga) -> Participant:
        """The participant whose functions belong to the saga.

        No function is ever called for a saga that fits no declared version: then any participant
        will do, for its name.
        """
        return self._by_version.get(saga.version, self.newest)

    def begin(self, saga_id: str, entries: Sequence[Entry]) -> Saga:
        """The empty saga, with the plan under which its entries are to be folded."""
        events = [entry.event for entry in entries]
        first = events[0] if events else None
        if not isinstance(first, e.Accepted):
            return Saga(id=saga_id)
        declared = self._by_version.get(first.version)
        bound = bound_steps(events)
        newest = self.newest.plan
        if declared is None:
            what = "a newer one" if first.version > newest.version else "not declared here"
            why = f"version {first.version} of stage {newest.stage!r} accepted it, {what}"
        else:
            differs = difference(declared.plan, saga_id, bound)
            if not differs:
                return Saga(id=saga_id, plan=self._plan(declared))
            why = f"it does not fit stage {newest.stage!r} as it is declared now: {differs}"
            if first.plan_hash == self._hashes[first.version]:
                why = f"{why} (it was accepted so, and another release ran it since)"
        if first.version <= newest.version:
            why = f"{why}; {MEND}"
        return Saga(id=saga_id, plan=journaled_plan(newest, first.version, bound, why))

    def _plan(self, declared: Participant) -> Plan | None:
        return None if declared is self.newest else declared.plan
