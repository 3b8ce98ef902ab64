"""The version of a stage, what it supersedes, and what is only called otherwise (rule 32)."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from stage.core.errors import DeclarationError
from stage.core.steps import FORWARD_PREFIX, VERSION_MAX, Plan


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a declaration among the versions of its stage."""

    name: str
    version: int = 1
    supersedes: Lineage | None = None
    renamed: dict[str, str] = {}
    peers_renamed: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Refuse a version that is none, or not above the one before."""
        if not 1 <= self.version <= VERSION_MAX:
            raise DeclarationError(
                f"version={self.version!r} of stage {self.name!r}: give a whole number from 1"
            )
        before = self.supersedes
        if before is not None and before.version >= self.version:
            raise DeclarationError(
                f"stage {self.name!r} has version {self.version} and supersedes version"
                f" {before.version}: give it version={before.version + 1}"
            )

    def applied_to(self, plan: Plan) -> Plan:
        """The plan with its version and its old names. Raises DeclarationError with the fix."""
        for before, today in self.renamed.items():
            if before in plan.by_name and today not in plan.by_name:
                raise DeclarationError(_turned("renamed", self.name, before, today))
            if before in plan.by_name:
                raise DeclarationError(
                    f"renamed= of stage {self.name!r} says that {before!r} is {today!r} now, and a"
                    f" step {before!r} is there: leave it out, or give the new step another name"
                )
            if today not in plan.by_name:
                raise DeclarationError(
                    f"renamed= of stage {self.name!r} says that {before!r} is {today!r} now, and no"
                    f" step has that name: the steps are {', '.join(plan.by_name) or 'none'}"
                )
        peers = {step.peer for step in plan.steps if step.peer}
        for before, today in self.peers_renamed.items():
            if before in peers and today not in peers:
                raise DeclarationError(_turned("peers_renamed", self.name, before, today))
            if before in peers:
                raise DeclarationError(
                    f"peers_renamed= of stage {self.name!r} says that {before!r} is {today!r} now,"
                    f" and a step still uses {before!r}: leave one of the two out"
                )
        forwards = {
            FORWARD_PREFIX + before: FORWARD_PREFIX + today
            for before, today in self.peers_renamed.items()
            if FORWARD_PREFIX + today in plan.by_name
        }
        return replace(
            plan,
            version=self.version,
            renamed={**self.renamed, **forwards},
            peers_renamed=self.peers_renamed,
        )


def _turned(option: str, stage: str, before: str, today: str) -> str:
    """The refusal of a former name that is there, where the new one is not."""
    return (
        f"{option}= of stage {stage!r} says that {before!r} is {today!r} now, and {before!r} is"
        f" there, not {today!r}. It reads {{former: new}}: write {option}="
        f"{{{today!r}: {before!r}}} if {before!r} is the new name, or use {today!r} in the steps"
    )
