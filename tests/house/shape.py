"""The shape of code: how long a function is, how many parameters it has, and who imports whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import NamedTuple

LINES_MAX = 70
LINES_MAX_WITHOUT_REASON = 40
REASON = re.compile(r"^\s*# Long (and many )?because \w.*")
PARAMETERS_MAX = 6
"""Without `self`. Past six, a struct says what belongs together."""
REASON_OF_MANY = re.compile(r"^\s*# (Many|Long and many) because \w.*")


class Function(NamedTuple):
    """A function, the lines that it takes from `def` to its end, and whether it says why."""

    name: str
    line: int
    length: int
    reasoned: bool
    parameters: int
    """How many it has; 0 for a command of click, whose parameters are the options of a person."""
    many_reasoned: bool


def functions(source: str) -> list[Function]:
    """Every function of a module; the reason is a comment above it or in its first lines."""
    lines = source.splitlines()
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            top = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            head = (docstring.end_lineno or 0) + 2 if docstring else node.body[0].lineno
            near = [*lines[max(top - 3, 0) : top - 1], *lines[node.lineno : head]]
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found.append(
                Function(
                    node.name,
                    node.lineno,
                    length,
                    reasoned=any(REASON.match(line) for line in near),
                    parameters=_parameters(node),
                    many_reasoned=any(REASON_OF_MANY.match(line) for line in near),
                )
            )
    return found


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    decorators = (ast.unparse(each).partition("(")[0] for each in node.decorator_list)
    if any(each.endswith(".command") for each in decorators):
        return 0
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return sum(each.arg not in ("self", "cls") for each in given)


def too_long(source: str) -> list[str]:
    """Functions over 70 lines, and those over 40 that give no reason."""
    return [
        f"{each.line}: {each.name} has {each.length} lines"
        for each in functions(source)
        if each.length > LINES_MAX or (each.length > LINES_MAX_WITHOUT_REASON and not each.reasoned)
    ]


def too_many_parameters(source: str) -> list[str]:
    """Functions with more than six parameters that give no reason."""
    return [
        f"{each.line}: {each.name} has {each.parameters} parameters"
        for each in functions(source)
        if each.parameters > PARAMETERS_MAX and not each.many_reasoned
    ]


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a ring, by Tarjan's algorithm."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        path.append(module)
        for imported in sorted(imports.get(module, ())):
            if imported not in order:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in path:
                low[module] = min(low[module], order[imported])
        if low[module] == order[module]:
            ring = path[path.index(module) :]
            del path[path.index(module) :]
            if len(ring) > 1:
                found.append(sorted(ring))

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return sorted(found)
