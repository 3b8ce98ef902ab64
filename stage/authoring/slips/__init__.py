"""The slips that the source of an author's functions shows, with their cost and their mend.

A slip that is certain would fail or lose something at every run. Another one is a warning: its
author may know better. A function without source has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stage.authoring.declaration import StageDeclaration
from stage.authoring.slips.answers import ANSWERS
from stage.authoring.slips.compensations import COMPENSATIONS
from stage.authoring.slips.contents import CONTENTS, contents_of
from stage.authoring.slips.members import MEMBERS, members_of_a_saga
from stage.authoring.slips.outcomes import OUTCOMES
from stage.authoring.slips.repeats import REPEATS, impure_in
from stage.authoring.slips.statements import STATEMENTS
from stage.authoring.slips.step_function import Slip, StepFunction
from stage.authoring.slips.waits import WAITS
from stage.authoring.source import Source
from stage.authoring.steps import ApprovalStep, DeclaredStep, ExternalStep
from stage.core.commands import AttemptKind

RULES = (
    *(*WAITS, *REPEATS, *ANSWERS, *MEMBERS),
    *(*COMPENSATIONS, *STATEMENTS, *OUTCOMES, *CONTENTS),
)


def slips_in(stage: StageDeclaration[Any, Any]) -> Iterator[Slip]:
    """Every slip of the functions and the types of one stage, in the order of its steps."""
    yield from contents_of(stage)
    for step in stage.steps:
        if isinstance(step, ApprovalStep):
            source = Source(step.function)
            yield from impure_in(step.name, source)
            yield from members_of_a_saga(stage, source, *source.parameters[:1])
            continue
        for kind, code in _functions(step):
            own = StepFunction(stage, step, kind, Source(code))
            for function in own.with_passed_on():
                for rule in RULES:
                    yield from rule(function)
    if stage.output_function is not None:
        source = Source(stage.output_function)
        yield from impure_in("the output", source)
        yield from members_of_a_saga(stage, source, *source.parameters[:1])


def _functions(step: DeclaredStep[Any, Any]) -> Iterator[tuple[AttemptKind, Any]]:
    yield AttemptKind.EXECUTE, step.function
    if isinstance(step, ExternalStep) and step.probing is not None:
        yield AttemptKind.PROBE, step.probing
    if step.compensating is not None:
        yield AttemptKind.COMPENSATE, step.compensating


__all__ = ["Slip", "slips_in"]
