"""The source of an author's functions, read without running them: the slips that it shows.

Only what is certain is found. A function without source, a statement that is put together at run
time and an awaitable that is kept for later are left to the run.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

RUNS_SQL: Final = frozenset({"execute", "executemany", "fetchall", "fetchone", "fetchval"})
REQUESTS: Final = frozenset({"delete", "get", "patch", "post", "put", "request"})


BLOCKING: Final = frozenset(
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
BLOCKING_MODULES: Final = frozenset({"requests"})
"""Modules whose plain functions all send and wait."""


class Statement(NamedTuple):
    """One statement of a transaction function, where its text stands in the source."""

    place: str
    sql: str
    parameters: int | None
    """How many it is given; None where only the run knows."""


def statements_in(function: Callable[..., Any]) -> Iterator[Statement]:
    """The statements that a transaction function gives its `tx` as plain texts."""
    source = Source(function)
    for call in source.calls(RUNS_SQL):
        match call.args:
            case [ast.Constant(value=str(sql)), *rest]:
                yield Statement(source.place(call), sql, _count(call, rest))


def unawaited_in(function: Callable[..., Any]) -> Iterator[str]:
    """Calls of `tx` or `http` whose value is used unawaited: nothing is sent, and nothing runs."""
    source = Source(function)
    for call in source.calls(RUNS_SQL | REQUESTS):
        if source.is_waited_for(call):
            continue
        yield f"{source.place(call)}: {ast.unparse(call.func)}(...) is not awaited"


def dropped_in(function: Callable[..., Any]) -> Iterator[str]:
    """Calls of async functions whose coroutine is dropped on its line: nothing of them runs."""
    source = Source(function)
    for call in source.dropped():
        if inspect.iscoroutinefunction(source.called(call)):
            yield f"{source.place(call)}: {ast.unparse(call.func)}(...) is not awaited"


def blocking_in(function: Callable[..., Any]) -> Iterator[str]:
    """Calls of functions of which it is known that they wait for more than the disk."""
    for source in Source(function).with_called():
        for call in source.all_calls():
            name = source.full_name(call)
            if name in BLOCKING or (
                name.partition(".")[0] in BLOCKING_MODULES
                and inspect.isroutine(source.called(call))
            ):
                yield f"{source.place(call)}: {ast.unparse(call.func)}(...) blocks"


def waits_in(function: Callable[..., Any]) -> Iterator[str]:
    """Awaits of asyncio's own functions, which wait for something else than the database."""
    source = Source(function)
    for call in source.awaited():
        if source.full_name(call).partition(".")[0] == "asyncio":
            yield f"{source.place(call)}: await {ast.unparse(call.func)}(...) waits for no database"


def request_beyond(function: Callable[..., Any], most: int) -> str:
    """The place of a request beyond so many that the function makes in any case, or nothing."""
    source = Source(function)
    made = [call for call in source.always() if source.is_request(call)]
    if len(made) <= most:
        return ""
    beyond = made[most]
    return f"{source.place(beyond)}: {ast.unparse(beyond.func)}(...) is request {most + 1}"


class Source:
    """The syntax tree of a function, the names that it knows, and its parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        plain = inspect.unwrap(function)
        self.code = plain.__code__
        try:
            text = textwrap.dedent(inspect.getsource(plain))
            self.tree: ast.AST = ast.parse(text)
        except (OSError, SyntaxError, TypeError):
            self.tree = ast.Module(body=[], type_ignores=[])
        known: dict[str, Any] = {}
        if inspect.isfunction(plain):
            closed = inspect.getclosurevars(plain)
            known = {**closed.builtins, **closed.globals, **closed.nonlocals}
        self._known = known
        self._imported = dict(_imports_in(self.tree))
        self.parameters = self.code.co_varnames[: self.code.co_argcount]
        self._first = self.parameters[0] if self.parameters else ""
        self._parents = {
            id(child): node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }

    @property
    def body(self) -> list[ast.stmt]:
        """The statements of the function, without its docstring."""
        body: list[ast.stmt] = getattr(next(iter(getattr(self.tree, "body", ())), None), "body", [])
        return [each for each in body if not _is_text(each)]

    def of(self, kind: type[N]) -> Iterator[N]:
        """Every node of that type."""
        return (node for node in ast.walk(self.tree) if isinstance(node, kind))

    def parent(self, node: ast.AST) -> ast.AST | None:
        """The node around that one."""
        return self._parents.get(id(node))

    def methods(self) -> Iterator[tuple[str, ast.Call]]:
        """Each call of a method of the first parameter, with its name."""
        for node in self.of(ast.Call):
            match node.func:
                case ast.Attribute(value=ast.Name(id=name), attr=method) if name == self._first:
                    yield method, node

    def calls(self, methods: frozenset[str]) -> Iterator[ast.Call]:
        """Each call of one of those methods of the first parameter."""
        return (call for method, call in self.methods() if method in methods)

    def requests(self) -> Iterator[ast.Call]:
        """Each request of `http`."""
        return self.calls(REQUESTS)

    def all_calls(self) -> Iterator[ast.Call]:
        """Every call of it."""
        return self.of(ast.Call)

    def dropped(self) -> Iterator[ast.Call]:
        """The calls whose value is dropped on their line."""
        for node in self.of(ast.Expr):
            if isinstance(node.value, ast.Call):
                yield node.value

    def awaited(self) -> Iterator[ast.Call]:
        """The calls whose value is awaited at once."""
        for node in self.of(ast.Await):
            if isinstance(node.value, ast.Call):
                yield node.value

    def always(self) -> Iterator[ast.Call]:
        """The calls that are awaited whenever the function ends: those in no branch."""
        for statement in self.body:
            if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return):
                waits = (each for each in _evaluated(statement) if isinstance(each, ast.Await))
                yield from (each.value for each in waits if isinstance(each.value, ast.Call))
            elif any(isinstance(each, ast.Return) for each in ast.walk(statement)):
                return

    def is_request(self, call: ast.Call) -> bool:
        """Whether it is a request of `http`."""
        return any(call is each for each in self.requests())

    def is_waited_for(self, call: ast.Call) -> bool:
        """Whether something may await the value of a call: itself, a name of it, or a callee."""
        around = self.parent(call)
        if isinstance(around, ast.Assign) and isinstance(around.targets[0], ast.Name):
            uses = list(self.loads(around.targets[0].id))
            return any(isinstance(self.parent(use), _PASSES_ON) for use in uses)
        return isinstance(around, (*_PASSES_ON, ast.Assign, ast.AnnAssign, ast.NamedExpr))

    def loads(self, name: str) -> Iterator[ast.Name]:
        """Where the value of a name is used."""
        for node in self.of(ast.Name):
            if node.id == name and isinstance(node.ctx, ast.Load):
                yield node

    def named(self, call: ast.Call) -> str:
        """The name that is given the value of a call, awaited or not; empty without one."""
        around = self.parent(call)
        if isinstance(around, ast.Await):
            around = self.parent(around)
        match around:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                return name
            case ast.NamedExpr(target=ast.Name(id=name)):
                return name
        return ""

    def origins(self, node: ast.AST) -> Iterator[ast.AST]:
        """That expression, and the values that the names in it are given, by whatever way."""
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            part = waiting.pop(0)
            yield part
            names = {each.id for each in ast.walk(part) if isinstance(each, ast.Name)} - seen
            seen |= names
            waiting += [value for name, value in self._given if name in names]

    def text_of(self, node: ast.AST) -> Iterator[ast.AST]:
        """The expressions whose value stands in a text, by the names that hold parts of it too.

        Of calls only those are followed that make a text of a text: another value may be safe.
        """
        seen: set[str] = set()
        waiting = [node]
        while waiting:
            part = waiting.pop()
            match part:
                case ast.JoinedStr(values=within) | ast.List(elts=within) | ast.Tuple(elts=within):
                    waiting += within
                case ast.FormattedValue(value=within) | ast.Subscript(value=within):
                    waiting.append(within)
                case ast.BinOp(left=left, right=right):
                    waiting += (left, right)
                case ast.IfExp(body=body, orelse=other):
                    waiting += (body, other)
                case ast.Call(
                    func=ast.Attribute(value=within, attr=method), args=given, keywords=named
                ) if method in _OF_TEXT:
                    waiting += (within, *given, *(each.value for each in named))
                case ast.Call(func=ast.Name(id="format" | "repr" | "str"), args=given):
                    waiting += given
                case ast.Attribute(value=within):
                    yield part
                    waiting.append(within)
                case ast.Name(id=name) if name not in seen:
                    seen.add(name)
                    waiting += [value for given_name, value in self._given if given_name == name]

    @cached_property
    def _given(self) -> list[tuple[str, ast.expr]]:
        """Each name that is given a value, whole or in a member, with that value."""
        found: list[tuple[str, ast.expr]] = []
        for node in ast.walk(self.tree):
            match node:
                case ast.Assign(targets=targets, value=value):
                    found += [(name, value) for target in targets for name in _bound_by(target)]
                case ast.AnnAssign(target=target, value=ast.expr() as value):
                    found += [(name, value) for name in _bound_by(target)]
                case ast.AugAssign(target=target, value=value):
                    found += [(name, value) for name in _bound_by(target)]
                case ast.NamedExpr(target=target, value=value):
                    found.append((target.id, value))
        return found

    def value_of(self, node: ast.AST) -> Any:
        """The value of an expression, where it is known without a run; None otherwise."""
        match node:
            case ast.Name(id=name) if name not in self.code.co_varnames:
                return self._known.get(name)
            case ast.Attribute(value=within, attr=name):
                found = self.value_of(within)
                return getattr(found, name, None) if inspect.ismodule(found) else None
        return None

    def called(self, call: ast.Call) -> Any:
        """The function that is called, where its name is known without a run; None otherwise."""
        return self.value_of(call.func)

    def full_name(self, node: ast.AST) -> str:
        """`time.sleep`: the name of what stands there; empty where nobody knows it."""
        match node:
            case ast.Call(func=function):
                return self.full_name(function)
            case ast.Name(id=name) if name in self._imported:
                return self._imported[name]
            case ast.Attribute(value=within, attr=name):
                found = self.value_of(within)
                around = self.full_name(within) if found is None else _full_name(found)
                return f"{around}.{name}" if around else ""
        found = self.value_of(node)
        return "" if found is None else _full_name(found)

    def with_called(self) -> Iterator[Source]:
        """This source, and those of the author's functions that it calls, also by one another."""
        seen, waiting = {self.code}, [self]
        while waiting:
            source = waiting.pop(0)
            yield source
            for call in source.all_calls():
                found = source.beside(call)
                if found is not None and found.code not in seen:
                    seen.add(found.code)
                    waiting.append(found)

    def makes(self, node: ast.AST, *kinds: type) -> bool:
        """Whether a thing of one of our types, or of a type made of one, stands there.

        A name that the function imports itself is known by its module alone.
        """
        made = node.func if isinstance(node, ast.Call) else node
        found = self.value_of(made)
        if found is not None:
            return isinstance(found, type) and issubclass(found, kinds)
        module, _, name = self.full_name(made).rpartition(".")
        return module.partition(".")[0] == "stage" and name in {each.__name__ for each in kinds}

    def beside(self, call: ast.Call) -> Source | None:
        """The source of the function that is called, where the author wrote it; None otherwise."""
        found = self.called(call)
        code = getattr(found, "__code__", None)
        here = Path(self.code.co_filename).parent
        return None if code is None or Path(code.co_filename).parent != here else Source(found)

    def place(self, node: ast.expr | ast.stmt | ast.excepthandler) -> str:
        """`payment.py:42`: the line of a node in its file."""
        line = self.code.co_firstlineno + node.lineno - 1
        return f"{Path(self.code.co_filename).name}:{line}"


N = TypeVar("N", bound=ast.AST)
_PASSES_ON: Final = (
    *(ast.Await, ast.Call, ast.Starred, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.keyword),
    *(ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp, ast.Return, ast.Lambda),
    *(ast.Yield, ast.YieldFrom, ast.IfExp, ast.withitem),
)
"""Code that may await a value later, or give it to such code: left to the run."""


_OF_TEXT: Final = frozenset(
    {
        *("capitalize", "format", "join", "lower", "lstrip", "removeprefix", "removesuffix"),
        *("replace", "rstrip", "strip", "title", "upper"),
    }
)
"""Methods that make a text of texts."""


def _evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """A node, and all within it that is evaluated whenever it is: no arm of a condition."""
    yield node
    within: Iterable[ast.AST]
    match node:
        case ast.IfExp(test=test):
            within = (test,)
        case ast.BoolOp(values=[first, *_]):
            within = (first,)
        case ast.Compare(left=left, comparators=[second, *_]):
            within = (left, second)
        case (
            ast.ListComp(generators=[first, *_])
            | ast.SetComp(generators=[first, *_])
            | ast.DictComp(generators=[first, *_])
            | ast.GeneratorExp(generators=[first, *_])
        ):
            within = (first.iter,)  # it may be empty
        case ast.Lambda():
            within = ()
        case _:
            within = ast.iter_child_nodes(node)
    for each in within:
        yield from _evaluated(each)


def _bound_by(target: ast.expr) -> Iterator[str]:
    """The names that an assignment gives a value, or a member: `body` of `body["id"] = ...`."""
    match target:
        case ast.Name(id=name) | ast.Subscript(value=ast.Name(id=name)):
            yield name
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _bound_by(part)


def _imports_in(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The names that a function imports itself, with what they mean."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                whole = each.name if each.asname else each.name.partition(".")[0]
                yield each.asname or whole, whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for each in node.names:
                yield each.asname or each.name, f"{node.module}.{each.name}"


def _full_name(found: Any) -> str:
    """`datetime.datetime`: the module and the name of a thing, or of its type."""
    if inspect.ismodule(found):
        return found.__name__
    named = found if inspect.isclass(found) or inspect.isroutine(found) else type(found)
    module = getattr(named, "__module__", None) or type(getattr(named, "__self__", None)).__module__
    return f"{module}.{named.__qualname__}"


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _count(call: ast.Call, rest: list[ast.expr]) -> int | None:
    starred = any(isinstance(each, ast.Starred) for each in rest)
    many = isinstance(call.func, ast.Attribute) and call.func.attr == "executemany"
    return None if starred or many or call.keywords else len(rest)
