"""The shape of code: how long a function is, how many parameters it has, and who imports whom."""

from __future__ import annotations

from collections.abc import Mapping

from tests.house.syntax import syntax_of

LINES_MAX = 70
LINES_MAX_WITHOUT_REASON = 40
PARAMETERS_MAX = 6
"""Without `self`. Past six, a struct says what belongs together."""


def too_long(source: str) -> list[str]:
    """Functions over 70 lines, and those over 40 that give no reason."""
    return [
        f"{each.line}: {each.name} has {each.length} lines"
        for each in syntax_of(source).functions
        if each.length > LINES_MAX or (each.length > LINES_MAX_WITHOUT_REASON and not each.reasoned)
    ]


def too_many_parameters(source: str) -> list[str]:
    """Functions with more than six parameters that give no reason."""
    return [
        f"{each.line}: {each.name} has {each.parameters} parameters"
        for each in syntax_of(source).functions
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
