"""The attempts of a version, compiled at start: what each of them needs that no saga changes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.bindings import binding_of
from stage.core.commands import AttemptKind, Do
from stage.core.ids import Direction, idempotency_key
from stage.core.states import EXTERNAL_KINDS
from stage.core.steps import Step, StepKind
from stage.ports.stage import Participant


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of one step. The table has the first of each kind; a repeat differs in `do`.

    `key_end` follows the id of the saga in the key of the step, as long as its journal binds none.
    `is_local` says that its function runs within a unit: that of a transaction.
    """

    do: Do
    step: Step
    stage: str
    participant: Participant
    binding: e.Binding
    key_end: str
    is_local: bool
    is_approval: bool
    is_external: bool

    def numbered(self, do: Do) -> Instruction:
        """The instruction with the number of that attempt."""
        return self if do.attempt == 1 else replace(self, do=do)


Instructions = Mapping[AttemptKind, Mapping[str, Instruction]]
"""The instructions of one version, by the kind of attempt and the name of the step."""


def instructions_of(participant: Participant) -> Instructions:
    """The instructions of one version of the stage. To notify upstream belongs to no step."""
    return {
        kind: {step.name: _instruction(participant, kind, step) for step in participant.plan.steps}
        for kind in AttemptKind
        if kind is not AttemptKind.TELL
    }


def _instruction(participant: Participant, kind: AttemptKind, step: Step) -> Instruction:
    stage = participant.plan.stage
    return Instruction(
        do=Do(kind=kind, step=step.name),
        step=step,
        stage=stage,
        participant=participant,
        binding=binding_of(step),
        key_end=idempotency_key("", stage, step.name, Direction.EXECUTE),
        is_local=step.kind is StepKind.TRANSACTION,
        is_approval=step.kind is StepKind.APPROVAL,
        is_external=step.kind in EXTERNAL_KINDS,
    )
