"""The source of an author's functions, read without running them: the slips that it shows.

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


_BLOCKING: Final = frozenset(
    {
        "os.system",
        "posix.system",
        "socket.create_connection",
        "subprocess.call",
        "subprocess.check_call",
        "subprocess.check_output",
        "subprocess.run",
        "time.sleep",
        "urllib.request.urlopen",
    }
)
_BLOCKING_MODULES: Final = frozenset({"requests"})
"""Modules whose plain functions all send and wait."""


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


def dropped_in(function: Callable[..., Any]) -> Iterator[str]:
    """Calls of async functions whose coroutine is dropped on its line: nothing of them runs."""
    source = _Source(function)
    for call in source.dropped():
        if inspect.iscoroutinefunction(source.called(call)):
            yield f"{source.place(call)}: {ast.unparse(call.func)}(...) is not awaited"


def blocking_in(function: Callable[..., Any]) -> Iterator[str]:
    """Calls of functions of which it is known that they wait for more than the disk."""
    source = _Source(function)
    for call in source.all_calls():
        name = source.full_name(call)
        if name in _BLOCKING or (
            name.partition(".")[0] in _BLOCKING_MODULES and inspect.isroutine(source.called(call))
        ):
            yield f"{source.place(call)}: {ast.unparse(call.func)}(...) blocks"


def waits_in(function: Callable[..., Any]) -> Iterator[str]:
    """Awaits of asyncio's own functions, which wait for something else than the database."""
    source = _Source(function)
    for call in source.awaited():
        if source.full_name(call).partition(".")[0] == "asyncio":
            yield f"{source.place(call)}: await {ast.unparse(call.func)}(...) waits for no database"


def request_beyond(function: Callable[..., Any], most: int) -> str:
    """The place of a request beyond so many that the function makes in any case, or nothing."""
    source = _Source(function)
    made = [call for call in source.always() if source.is_request(call)]
    if len(made) <= most:
        return ""
    beyond = made[most]
    return f"{source.place(beyond)}: {ast.unparse(beyond.func)}(...) is request {most + 1}"


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
        closed = inspect.getclosurevars(plain) if inspect.isfunction(plain) else None
        self._known: dict[str, Any] = (
            {} if closed is None else {**closed.globals, **closed.nonlocals}
        )
        self._first = self._code.co_varnames[0] if self._code.co_argcount else ""

    def calls(self, methods: frozenset[str]) -> Iterator[tuple[ast.Call, bool]]:
        """Each call of a method of the first parameter, and whether its value is dropped."""
        dropped = {id(each.value) for each in ast.walk(self._tree) if isinstance(each, ast.Expr)}
        for node in ast.walk(self._tree):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
                    if name == self._first and method in methods:
                        yield node, id(node) in dropped

    def all_calls(self) -> Iterator[ast.Call]:
        """Every call of it."""
        return (node for node in ast.walk(self._tree) if isinstance(node, ast.Call))

    def dropped(self) -> Iterator[ast.Call]:
        """The calls whose value is dropped on their line."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                yield node.value

    def awaited(self) -> Iterator[ast.Call]:
        """The calls whose value is awaited at once."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Await) and isinstance(node.value, ast.Call):
                yield node.value

    def always(self) -> Iterator[ast.Call]:
        """The calls that are awaited whenever the function ends: those in no branch."""
        body = getattr(next(iter(getattr(self._tree, "body", ())), None), "body", [])
        for statement in body:
            if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return):
                waits = (each for each in ast.walk(statement) if isinstance(each, ast.Await))
                yield from (each.value for each in waits if isinstance(each.value, ast.Call))
            elif any(isinstance(each, ast.Return) for each in ast.walk(statement)):
                return

    def is_request(self, call: ast.Call) -> bool:
        """Whether it is a request of `http`."""
        match call.func:
            case ast.Attribute(value=ast.Name(id=name), attr=method):
                return name == self._first and method in _REQUESTS
        return False

    def called(self, call: ast.Call) -> Any:
        """The function that is called, where its name is known without a run; None otherwise."""
        names: list[str] = []
        node: ast.expr = call.func
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id in self._code.co_varnames:
            return None
        found = self._known.get(node.id)
        for name in reversed(names):
            if not inspect.ismodule(found):
                return None
            found = getattr(found, name, None)
        return found

    def full_name(self, call: ast.Call) -> str:
        """`time.sleep`: the name of the function that is called; empty where nobody knows it."""
        called = self.called(call)
        if called is None:
            return ""
        if isinstance(call.func, ast.Attribute):
            module = self.called(ast.Call(func=call.func.value, args=[], keywords=[]))
            return f"{getattr(module, '__name__', '')}.{call.func.attr}"
        return f"{getattr(called, '__module__', '')}.{getattr(called, '__name__', '')}"

    def place(self, node: ast.expr) -> str:
        """`payment.py:42`: the line of a node in its file."""
        line = self._code.co_firstlineno + node.lineno - 1
        return f"{Path(self._code.co_filename).name}:{line}"


def _count(call: ast.Call, rest: list[ast.expr]) -> int | None:
    starred = any(isinstance(each, ast.Starred) for each in rest)
    many = isinstance(call.func, ast.Attribute) and call.func.attr == "executemany"
    return None if starred or many or call.keywords else len(rest)
