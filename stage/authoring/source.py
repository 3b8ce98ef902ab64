"""The source of an author's functions, read without running them: statements, forgotten awaits.

Only what is certain is found. A function without source, a statement that is put together at run
time and an awaitable that is kept for later are left to the run.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

_RUNS_SQL: Final = frozenset({"execute", "executemany", "fetchall", "fetchone", "fetchval"})
_REQUESTS: Final = frozenset({"delete", "get", "head", "patch", "post", "put", "request"})


class Statement(NamedTuple):
    """One statement of a transaction function, where its text stands in the source."""

    place: str
    sql: str
    parameters: int | None
    """How many it is given; None where only the run knows."""


def statements_in(function: Callable[..., Any]) -> Iterator[Statement]:
    """The statements that a transaction function gives its `tx` as plain texts."""
    source = _Source(function)
    for call, _ in source.calls(_RUNS_SQL):
        match call.args:
            case [ast.Constant(value=str(sql)), *rest]:
                yield Statement(source.place(call), sql, _count(call, rest))


def unawaited_in(function: Callable[..., Any]) -> Iterator[str]:
    """Calls of `tx` or `http` whose awaitable is dropped on its line: nothing would be sent."""
    source = _Source(function)
    for call, dropped in source.calls(_RUNS_SQL | _REQUESTS):
        if dropped:
            yield f"{source.place(call)}: {ast.unparse(call.func)}(...) is not awaited"


class _Source:
    """The syntax tree of a function, and its first parameter: `tx` or `http`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        plain = inspect.unwrap(function)
        self._code = plain.__code__
        try:
            text = textwrap.dedent(inspect.getsource(plain))
            self._tree: ast.AST = ast.parse(text)
        except (OSError, SyntaxError, TypeError):
            self._tree = ast.Module(body=[], type_ignores=[])
        self._first = self._code.co_varnames[0] if self._code.co_argcount else ""

    def calls(self, methods: frozenset[str]) -> Iterator[tuple[ast.Call, bool]]:
        """Each call of a method of the first parameter, and whether its value is dropped."""
        dropped = {id(each.value) for each in ast.walk(self._tree) if isinstance(each, ast.Expr)}
        for node in ast.walk(self._tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
                    if name == self._first and method in methods:
                        yield node, id(node) in dropped

    def place(self, node: ast.expr) -> str:
        """`payment.py:42`: the line of a node in its file."""
        line = self._code.co_firstlineno + node.lineno - 1
        return f"{Path(self._code.co_filename).name}:{line}"


def _count(call: ast.Call, rest: list[ast.expr]) -> int | None:
    starred = any(isinstance(each, ast.Starred) for each in rest)
    many = isinstance(call.func, ast.Attribute) and call.func.attr == "executemany"
    return None if starred or many or call.keywords else len(rest)
