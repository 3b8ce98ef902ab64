"""Compensations that leave something, and results that are not there when they are asked for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from stage.authoring.slips.step_function import Rule, Slip, StepFunction, arguments, shown
from stage.authoring.steps import DeclaredStep


def nothing_without_a_result(function: StepFunction) -> Iterator[Slip]:
    """`if made is None: return`: the answer was lost, and the effect may stand."""
    made = _made(function)
    if not made:
        return
    for branch in function.source.of(ast.If):
        if not _asks_for_none(branch.test, made):
            continue
        if all(isinstance(each, ast.Return | ast.Pass) for each in branch.body):
            yield function.warning(
                branch,
                f"{made} is None when the answer was lost, and what {function.step.name} did may"
                f" stand: undo it by {function.saga}.key_of({function.step.name}), which is known"
                " in every case",
            )


def result_that_may_be_none(function: StepFunction) -> Iterator[Slip]:
    """A member of the result, of which nobody asked whether it is there."""
    made = _made(function)
    uses = list(function.source.loads(made)) if made else []
    read = [each for each in uses if isinstance(function.source.parent(each), ast.Attribute)]
    if read and len(read) == len(uses):
        yield function.warning(
            read[0],
            f"{made} is None when the answer was lost: the compensation would raise for days, and"
            f" what {function.step.name} did would stand. Undo it by"
            f" {function.saga}.key_of({function.step.name})",
        )


def _made(function: StepFunction) -> str:
    """The name of the parameter that holds the result to be undone; empty without one."""
    parameters = function.source.parameters
    own = function.passed_as is None
    takes_result = own and function.compensates and not function.is_transaction
    return parameters[-1] if takes_result and len(parameters) > 1 else ""


def _asks_for_none(test: ast.expr, name: str) -> bool:
    match test:
        case ast.Compare(left=ast.Name(id=asked), ops=[ast.Is() | ast.Eq()], comparators=[other]):
            return asked == name and isinstance(other, ast.Constant) and other.value is None
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id=asked)):
            return asked == name
    return False


def results_of_later_steps(function: StepFunction) -> Iterator[Slip]:
    """`saga.result` of a step that has not run yet, or whose answer was lost."""
    order = {step.name: at for at, step in enumerate(function.stage.steps)}
    here = order[function.step.name]
    for call in function.source.all_calls():
        match call.func:
            case ast.Attribute(value=ast.Name(id=saga), attr="result") if saga == function.saga:
                asked = function.source.value_of(call.args[0]) if call.args else None
            case _:
                continue
        if not isinstance(asked, DeclaredStep) or not (
            order.get(asked.name, -1) >= here or _side_by_side(function, asked)
        ):
            continue
        if not function.compensates:
            yield function.certain(
                call,
                f"{asked.name} has not run when {function.step.name} runs, so that it has no"
                f" result: declare {asked.name} before it",
            )
        elif asked.name == function.step.name and not function.is_transaction:
            yield function.warning(
                call,
                f"{asked.name} has no result when its answer was lost, and the compensation would"
                " raise for days: take its last parameter, and"
                f" {function.saga}.key_of({asked.name}) where that is None",
            )


def _side_by_side(function: StepFunction, asked: DeclaredStep[object, object]) -> bool:
    group = function.step.rules.group
    return bool(group) and group == asked.rules.group and not function.compensates


def key_of_the_compensation(function: StepFunction) -> Iterator[Slip]:
    """`saga.key` of a compensation in a request: the key of the undo, which undoes nothing."""
    if not (function.is_call and function.compensates) or function.of_saga(
        function.source.tree, "key_of"
    ):
        return
    for call in function.source.requests():
        for node in (each for part in arguments(call) for each in ast.walk(part)):
            if not isinstance(node, ast.Attribute) or shown(node) != f"{function.saga}.key":
                continue
            if isinstance(function.source.parent(node), ast.Attribute):
                continue  # something is made of it
            yield function.warning(
                node,
                f"{shown(node)} is the key of the undo here, under which {function.step.name} did"
                f" nothing: write {function.saga}.key_of({function.step.name})",
            )


def compensates_without_a_look(function: StepFunction) -> Iterator[Slip]:
    """An undo at an API that ignores keys, which is asked again when its answer is lost."""
    compensates = function.is_call and function.compensates and function.passed_as is None
    if not compensates or function.step.rules.idempotent:
        return
    asked = dict(function.source.methods())
    looks_elsewhere = any(
        isinstance(around := function.source.parent(each), ast.Call) and each is not around.func
        for each in function.source.loads(function.source.parameters[0])
    )
    if "post" in asked and "get" not in asked and not looks_elsewhere:
        yield function.warning(
            asked["post"],
            f"{function.step.name} says idempotent=False, and its undo is asked again when its"
            " answer is lost: an API that ignores keys would do it twice. Look first whether it is"
            " undone (await http.get), and ask only where it is not",
        )


def compensates_nothing(function: StepFunction) -> Iterator[Slip]:
    """A compensation without a line."""
    if (
        function.passed_as is None
        and function.compensates
        and all(
            isinstance(each, ast.Pass)
            or (isinstance(each, ast.Return) and each.value is None)
            or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            for each in function.source.body
        )
    ):
        yield Slip(
            False,
            f"{function.step.place}: the compensation of {function.step.name} takes nothing back,"
            " and the saga would be called compensated: undo the step, or say compensation=None,"
            " reason='...'",
        )


COMPENSATIONS: Final[tuple[Rule, ...]] = (
    nothing_without_a_result,
    result_that_may_be_none,
    results_of_later_steps,
    key_of_the_compensation,
    compensates_without_a_look,
    compensates_nothing,
)
