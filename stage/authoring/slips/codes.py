"""Which codes of an answer lead to a statement, where a function looks at nothing but codes.

Only what is certain counts: a test that also reads the body, or anything before the statement
that looks at the answer, may know the API's own word.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any, Final

from stage.authoring.slips.step_function import StepFunction

GATEWAYS: Final = frozenset({400, 403, 404, 409, 410, 422})
"""Codes that a gateway gives by itself, also where the API has acted."""
_COMPARED: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda code, codes: code in codes,
    ast.NotIn: lambda code, codes: code not in codes,
}


def codes_asked(test: ast.expr, answers: set[str]) -> set[Any] | None:
    """The codes that a test asks for, -1 for a range; None where it asks for anything else."""
    codes: set[Any] = set()
    for name in (each for each in ast.walk(test) if isinstance(each, ast.Name)):
        if name.id not in answers:
            return None
    for node in ast.walk(test):
        if isinstance(node, ast.Call) or (
            isinstance(node, ast.Attribute) and not is_status(node, answers)
        ):
            return None
        if isinstance(node, ast.Compare):
            given = [each for part in node.comparators for each in ast.walk(part)]
            equal = all(isinstance(op, ast.Eq | ast.In) for op in node.ops)
            found = {each.value for each in given if isinstance(each, ast.Constant)}
            codes |= found if equal else {-1}
    return codes or None


def is_status(node: ast.AST, answers: set[str]) -> bool:
    """Whether it is the code of one of these answers."""
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr="status"):
            return name in answers
    return False


def codes_of_cases(cases: list[ast.match_case]) -> set[Any] | None:
    """The codes that these cases name; None where one of them asks for anything else."""
    codes: set[Any] = set()
    for case in cases:
        for pattern in ast.walk(case.pattern):
            match pattern:
                case ast.MatchValue(value=ast.Constant(value=code)):
                    codes.add(code)
                case ast.MatchOr() | ast.Constant():
                    pass
                case _:
                    return None
        if case.guard is not None:
            return None
    return codes


def takes_any(case: ast.match_case) -> bool:
    """Whether it is `case _`, also with a name."""
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and not case.pattern.pattern


def ends(block: list[ast.stmt]) -> bool:
    """Whether the function always ends in that block."""
    match block[-1:]:
        case [ast.Raise() | ast.Return()]:
            return True
        case [ast.If(body=body, orelse=other)]:
            return ends(body) and ends(other)
    return False


def block_of(function: StepFunction, statement: ast.AST) -> tuple[list[ast.stmt], int]:
    """The block in which a statement stands, and where."""
    around = function.source.parent(statement)
    for _, block in () if around is None else ast.iter_fields(around):
        for at, each in enumerate(block if isinstance(block, list) else ()):
            if each is statement:
                return block, at
    return [], 0


class WayTo:
    """The way from the first line of a function to one of its statements."""

    def __init__(self, function: StepFunction, statement: ast.stmt) -> None:
        self._function = function
        self._answers = function.answers()
        self._bodies: set[str] = set()
        self._asked: set[str] = set()
        self._holds: list[Callable[[int], Any]] = []
        self._by_codes_alone = self._leads_to(statement) and not self._looks(statement)

    def decided_by(self) -> ast.Call | None:
        """The request whose code alone leads there; None where it may be more than that."""
        if not self._by_codes_alone or len(self._asked) != 1:
            return None
        return self._answers[next(iter(self._asked))]

    def codes_of_gateways(self) -> set[int]:
        """The codes of gateways that lead there; none where a test cannot be reckoned."""
        try:
            return {code for code in GATEWAYS if all(holds(code) for holds in self._holds)}
        except (ArithmeticError, LookupError, TypeError):
            return set()

    def _leads_to(self, node: ast.AST) -> bool:
        """Note each test on the way; False where more than codes may decide on it."""
        around = self._function.source.parent(node)
        block, at = block_of(self._function, node)
        return self._enters(around, block) and all(map(self._passes, block[:at]))

    def _enters(self, around: ast.AST | None, block: list[ast.stmt]) -> bool:
        match around:
            case ast.AsyncFunctionDef():
                return isinstance(self._function.source.parent(around), ast.Module)
            case ast.If(test=test, body=body):
                return self._leads_to(around) and self._notes(test, block is body)
            case ast.match_case():
                choice = self._function.source.parent(around)
                return (
                    isinstance(choice, ast.Match)
                    and takes_any(around)
                    and self._leads_to(choice)
                    and self._goes_past(choice.subject, choice.cases[: choice.cases.index(around)])
                )
            case ast.AsyncWith(items=items) | ast.With(items=items):
                return self._leads_to(around) and not any(map(self._looks, items))
        return False

    def _passes(self, statement: ast.stmt) -> bool:
        """Go on behind a statement, with what it leaves of the codes; False where it looks."""
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if self._is_body(value):
                self._bodies.add(name)
                return True
            case ast.If(test=test, body=body, orelse=other) if ends(body):
                if codes_asked(test, set(self._answers)) is not None:
                    return self._notes(test, False) and all(map(self._passes, other))
            case ast.Match(subject=subject, cases=cases) if is_status(subject, set(self._answers)):
                if all(ends(case.body) for case in cases):
                    return self._goes_past(subject, cases)
        return not self._looks(statement)

    def _notes(self, test: ast.expr, held: bool) -> bool:
        if codes_asked(test, set(self._answers)) is None:
            return False
        self._asked |= {each.id for each in ast.walk(test) if isinstance(each, ast.Name)}
        self._holds.append(lambda code: bool(_reckoned(test, code)) is held)
        return True

    def _goes_past(self, subject: ast.expr, cases: list[ast.match_case]) -> bool:
        codes = codes_of_cases(cases)
        if codes is None or not is_status(subject, set(self._answers)):
            return False
        self._asked |= {each.id for each in ast.walk(subject) if isinstance(each, ast.Name)}
        self._holds.append(lambda code: code not in codes)
        return True

    def _is_body(self, value: ast.expr) -> bool:
        """`answer.json()`, which a page of a gateway may be too."""
        match value:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="json"), args=[]):
                return name in self._answers
        return False

    def _looks(self, node: ast.AST) -> bool:
        """Whether something within may know more of an answer than its code."""
        known = {*self._answers, *self._bodies}
        return any(
            isinstance(each, ast.Name)
            and isinstance(each.ctx, ast.Load)
            and each.id in known
            and not is_status(self._function.source.parent(each) or each, known)
            for each in ast.walk(node)
        )


def _reckoned(test: ast.expr, code: int) -> Any:
    """The value of a test of codes for that code. Raises LookupError for another expression."""
    match test:
        case ast.Constant(value=value):
            return value
        case ast.Attribute():
            return code
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return [_reckoned(each, code) for each in parts]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _reckoned(operand, code)
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            return _reckoned(left, code) // _reckoned(right, code)
        case ast.BoolOp(op=op, values=values):
            found = [bool(_reckoned(each, code)) for each in values]
            return all(found) if isinstance(op, ast.And) else any(found)
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_reckoned(each, code) for each in (left, *others)]
            return all(_COMPARED[type(op)](*values[at : at + 2]) for at, op in enumerate(ops))
    raise LookupError
