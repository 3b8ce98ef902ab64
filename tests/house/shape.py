"""The shape of code: how long a function is, and who imports whom."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import NamedTuple

LINES_MAX = 70
LINES_MAX_WITHOUT_REASON = 40
REASON = re.compile(r"^\s*# Long because \w.*")


class Function(NamedTuple):
    """A function, the lines that it takes from `def` to its end, and whether it says why."""

    name: str
    line: int
    length: int
    reasoned: bool


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
            reasoned = any(REASON.match(line) for line in near)
            found.append(Function(node.name, node.lineno, length, reasoned))
    return found


def too_long(source: str) -> list[str]:
    """Functions over 70 lines, and those over 40 that give no reason."""
    return [
        f"{each.line}: {each.name} has {each.length} lines"
        for each in functions(source)
        if each.length > LINES_MAX or (each.length > LINES_MAX_WITHOUT_REASON and not each.reasoned)
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
