"""Small changes of a source by rule: the operators of a mutation test.

Each change is one that a hurried author could make: another comparison, a condition the other way
round, a statement or a keyword argument that is missing. `changes_of` numbers the changes that a
module offers, `changed` makes the one of a number. Text without a bearing on behaviour stays:
annotations, docstrings, messages, and the value of a limit that has a name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence

import msgspec

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}
_UNREACHABLE = frozenset({"assert_never"})
"""A call that stands where nothing comes: the type checker is its test."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One change that a module offers."""

    number: int
    operator: str
    before: str
    """The source of the changed node, in one line."""
    line: int
    lines: tuple[int, ...]
    """Lines that a test runs where it meets the change."""


def changes_of(source: str) -> list[Change]:
    """All changes that the source of a module offers, in the order of their numbers."""
    walk = _Walk(None)
    walk.visit(ast.parse(source))
    return walk.found


def changed(source: str, number: int) -> ast.Module:
    """The module with the change of that number. Raises IndexError where there is none."""
    walk = _Walk(number)
    tree = ast.parse(source)
    walk.visit(tree)
    if number >= len(walk.found):
        raise IndexError(f"the module offers {len(walk.found)} changes, there is no {number}")
    return ast.fix_missing_locations(tree)


class _Walk(ast.NodeTransformer):
    """Numbers the changes on its way, and makes the chosen one."""

    def __init__(self, chosen: int | None) -> None:
        self._chosen = chosen
        self._statement = 0
        self._in_function = False
        self.found: list[Change] = []

    def visit(self, node: ast.AST) -> ast.AST:
        """Visit a node, below its statement."""
        before = self._statement
        if isinstance(node, ast.stmt | ast.match_case):
            self._statement = node.lineno if isinstance(node, ast.stmt) else node.pattern.lineno
        seen: ast.AST = super().visit(node)
        self._statement = before
        return seen

    def _offer(
        self, node: ast.AST, operator: str, make: Callable[[], ast.AST], at: ast.expr | ast.stmt
    ) -> ast.AST:
        number, text = len(self.found), " ".join(ast.unparse(node).split())
        last = at.end_lineno or at.lineno
        lines = {self._statement, *range(at.lineno, last + 1)}
        self.found.append(
            Change(
                number=number,
                operator=operator,
                before=text[:160],
                line=at.lineno,
                lines=tuple(sorted(lines)),
            )
        )
        return ast.copy_location(make(), at) if number == self._chosen else node

    # --- left alone -----------------------------------------------------------------------

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """An annotation."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Its value alone."""
        if node.value is not None:
            node.value = self.visit(node.value)  # type: ignore[assignment]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Defaults and body."""
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Defaults and body."""
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        before, self._in_function = self._in_function, True
        node.args.defaults = self._all(node.args.defaults)
        node.args.kw_defaults = [each and self.visit(each) for each in node.args.kw_defaults]  # type: ignore[misc]
        node.body = self._all(node.body)
        self._in_function = before
        return node

    def _all(self, nodes: Sequence[ast.AST]) -> list:  # type: ignore[type-arg]
        return [self.visit(each) for each in nodes]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Its body: bases and keywords of a class are types."""
        node.body = self._all(node.body)
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        """A condition; what is there for the type checker is left alone."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node
        self.generic_visit(node)
        node.test = self._negated(node.test)
        return node

    # --- conditions -----------------------------------------------------------------------

    def visit_While(self, node: ast.While) -> ast.AST:
        """A condition; a loop without one has none to change."""
        if isinstance(node.test, ast.Constant):
            node.body = self._all(node.body)
            return node
        self.generic_visit(node)
        node.test = self._negated(node.test)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """A condition."""
        self.generic_visit(node)
        node.test = self._negated(node.test)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """Its conditions."""
        self.generic_visit(node)
        node.ifs = [self._negated(each) for each in node.ifs]
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        """A guard."""
        self.generic_visit(node)
        if node.guard is not None:
            node.guard = self._negated(node.guard)
        return node

    def _negated(self, test: ast.expr) -> ast.expr:
        """The condition the other way round, where no other operator makes the same of it."""
        order = ast.Lt | ast.LtE | ast.Gt | ast.GtE
        if isinstance(test, ast.Compare) and not isinstance(test.ops[0], order):
            return test
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return test
        made = self._offer(
            test, "condition negated", lambda: ast.UnaryOp(op=ast.Not(), operand=test), test
        )
        assert isinstance(made, ast.expr)
        return made

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        """Another comparison."""
        self.generic_visit(node)
        other = _COMPARISONS[type(node.ops[0])]

        def make() -> ast.AST:
            return ast.Compare(node.left, [other(), *node.ops[1:]], node.comparators)

        return self._offer(node, f"comparison: {other.__name__}", make, node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        """`or` for `and`."""
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return self._offer(node, "and, or", lambda: ast.BoolOp(other, node.values), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """No `not`; no minus."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Not | ast.USub):
            return self._offer(node, "sign removed", lambda: node.operand, node)
        return node

    # --- values ---------------------------------------------------------------------------

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """Another operation."""
        self.generic_visit(node)
        other = _ARITHMETIC.get(type(node.op))
        if other is None or not self._in_function:
            return node
        return self._offer(
            node,
            f"operation: {other.__name__}",
            lambda: ast.BinOp(node.left, other(), node.right),
            node,
        )

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """The other boolean; the next number, unless it is a limit with a name."""
        value = node.value
        if isinstance(value, bool):
            return self._offer(node, "other boolean", lambda: ast.Constant(not value), node)
        if isinstance(value, int | float) and self._in_function:
            return self._offer(node, "next number", lambda: ast.Constant(value + 1), node)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """A text."""
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A keyword argument that is missing; those of a type variable are types."""
        if isinstance(node.func, ast.Name) and node.func.id == "TypeVar":
            return node
        self.generic_visit(node)
        made: ast.AST = node
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None and made is node:
                made = self._offer(
                    node, f"keyword removed: {keyword.arg}", _without(node, place), node
                )
        return made

    # --- statements -----------------------------------------------------------------------

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """A call that is missing; a docstring, and what is only for the type checker, stays."""
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call):
            return node
        if isinstance(call.func, ast.Name) and call.func.id in _UNREACHABLE:
            return node
        self.generic_visit(node)
        return self._offer(node, "call removed", ast.Pass, node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """An error that is not raised."""
        return self._offer(node, "raise removed", ast.Pass, node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        """A sum that is not made."""
        self.generic_visit(node)
        return self._offer(node, "assignment removed", ast.Pass, node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """An attribute or a member that is not set."""
        self.generic_visit(node)
        (target, *others) = node.targets
        if others or not isinstance(target, ast.Attribute | ast.Subscript):
            return node
        return self._offer(node, "assignment removed", ast.Pass, node)

    def visit_Return(self, node: ast.Return) -> ast.AST:
        """None in place of a value."""
        self.generic_visit(node)
        value = node.value
        if value is None or (isinstance(value, ast.Constant) and not value.value):
            return node
        return self._offer(node, "None returned", lambda: ast.Return(ast.Constant(None)), node)

    def visit_Break(self, node: ast.Break) -> ast.AST:
        """On with the loop."""
        return self._offer(node, "continue for break", ast.Continue, node)

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        """No more of the loop."""
        return self._offer(node, "break for continue", ast.Break, node)

    def visit_Match(self, node: ast.Match) -> ast.AST:
        """A case that is missing, unless the type checker knows that it never comes."""
        self.generic_visit(node)
        made: ast.AST = node
        for place, case in enumerate(node.cases):
            if made is node and not _is_unreachable(case):
                made = self._offer_case(node, place, case)
        return made

    def _offer_case(self, node: ast.Match, place: int, case: ast.match_case) -> ast.AST:
        def make() -> ast.AST:
            cases = [*node.cases[:place], *node.cases[place + 1 :]]
            return ast.Match(node.subject, cases) if cases else ast.Pass()

        number = len(self.found)
        text = " ".join(ast.unparse(case.pattern).split())
        first = case.body[0]
        self.found.append(
            Change(
                number=number,
                operator="case removed",
                before=text[:160],
                line=case.pattern.lineno,
                lines=(case.pattern.lineno, first.lineno),
            )
        )
        return ast.copy_location(make(), node) if number == self._chosen else node


def _without(node: ast.Call, place: int) -> Callable[[], ast.AST]:
    keywords = [*node.keywords[:place], *node.keywords[place + 1 :]]
    return lambda: ast.Call(node.func, node.args, keywords)


def _is_unreachable(case: ast.match_case) -> bool:
    (first, *_) = case.body
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Call):
        return False
    return isinstance(first.value.func, ast.Name) and first.value.func.id in _UNREACHABLE
