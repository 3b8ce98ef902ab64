"""Outcomes that a function makes and does not give: it goes on as if nothing were."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

from stage.authoring.slips.step_function import Rule, Slip, StepFunction, shown

OUTCOME: Final = re.compile(r"\.(?:InDoubt|Pending|Refused|Transient)$")
"""The full name of what a function raises to say how it ended."""


def outcomes_not_raised(function: StepFunction) -> Iterator[Slip]:
    """`Refused("...")` without a `raise`, or behind a `return`."""
    for call in function.source.all_calls():
        around = function.source.parent(call)
        if not isinstance(around, ast.Expr | ast.Return):
            continue
        if OUTCOME.search(function.source.full_name(call)):
            yield function.certain(
                call,
                f"{shown(call.func)}(...) is not raised, and says nothing: write"
                f" raise {shown(call.func)}(...)",
            )


OUTCOMES: Final[tuple[Rule, ...]] = (outcomes_not_raised,)
