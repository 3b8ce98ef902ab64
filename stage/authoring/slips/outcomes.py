"""Outcomes that a function makes and does not give: it goes on as if nothing were."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from stage.authoring.outcomes import InDoubt, Pending, Refused, Transient
from stage.authoring.slips.step_function import Rule, Slip, StepFunction, shown

RAISED: Final = (InDoubt, Pending, Refused, Transient)
"""The types that a function raises to say how it ended; an author's own of such a name is none."""


def outcomes_not_raised(function: StepFunction) -> Iterator[Slip]:
    """`Refused("...")` without a `raise`, or behind a `return`."""
    for call in function.source.all_calls():
        around = function.source.parent(call)
        if not isinstance(around, ast.Expr | ast.Return):
            continue
        if isinstance(around, ast.Return) and function.passed_as is not None:
            continue  # its caller may raise it
        if function.source.makes(call, *RAISED):
            yield function.certain(
                call,
                f"{shown(call.func)}(...) is not raised, and says nothing: write"
                f" raise {shown(call.func)}(...)",
            )


OUTCOMES: Final[tuple[Rule, ...]] = (outcomes_not_raised,)
