"""The answers of a module to the rules of the house: its tree is walked once, for all of them.

A tree of every file would fill the memory of a worker, so the answers are kept, and no tree is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SETTING = re.compile(r"\bSTAGE_[A-Z][A-Z_]*[A-Z]\b")
REASON = re.compile(r"^\s*# Long (and many )?because \w.*")
REASON_OF_MANY = re.compile(r"^\s*# (Many|Long and many) because \w.*")
# Strings come first, so that a `#` within one begins no comment.
_STRING_OR_COMMENT = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"""|' + r"'''(?:[^'\\]|\\.|'(?!''))*'''|"
    r'"(?:[^"\\\n]|\\.)*"|' + r"'(?:[^'\\\n]|\\.)*'|(?P<comment>#[^\n]*)",
    re.DOTALL,
)

Nodes = Mapping[type[ast.AST], Sequence[Any]]
"""The nodes of one tree by their type, the outer ones first."""


@dataclass
class Module:
    """The names that one module defines, and the members of each of its classes."""

    names: set[str] = field(default_factory=set)
    classes: dict[str, set[str]] = field(default_factory=dict)
    bases: dict[str, list[str]] = field(default_factory=dict)


class Function(NamedTuple):
    """A function, the lines that it takes from `def` to its end, and whether it says why."""

    name: str
    line: int
    length: int
    reasoned: bool
    parameters: int
    """How many it has; 0 for a command of click, whose parameters are the options of a person."""
    many_reasoned: bool


class Syntax(NamedTuple):
    """The answers of one module."""

    purpose: str
    """Its own docstring, or nothing."""
    docstrings: Sequence[tuple[int, str]]
    """All of them, those below attributes too: the first line, the text unindented."""
    definitions: Sequence[tuple[int, str, str]]
    """Every name that it defines: line, kind, name."""
    functions: Sequence[Function]
    names: Module
    strings: frozenset[str]
    routes: frozenset[tuple[str, str]]
    """Method and path of each route that it registers."""
    commands: frozenset[str]
    """Of click."""
    settings: frozenset[str]


@cache  # many checks read the same files
def syntax_of(source: str) -> Syntax:
    """The answers of one module, from its source."""
    tree = ast.parse(source)
    nodes = by_type(tree)
    strings = frozenset(_strings(nodes))
    return Syntax(
        purpose=ast.get_docstring(tree) or "",
        docstrings=tuple(sorted(_docstrings(nodes))),
        definitions=tuple(sorted(_definitions(nodes))),
        functions=tuple(_functions(nodes, source.splitlines())),
        names=_module(tree, nodes),
        strings=strings,
        routes=frozenset(_routes(nodes)),
        commands=frozenset(_commands(nodes)),
        settings=frozenset(_settings(nodes, strings)),
    )


def comments_of(source: str) -> Iterator[tuple[int, str]]:
    """Every comment of a module, with its line."""
    line, counted = 1, 0
    for found in _STRING_OR_COMMENT.finditer(source):
        if found["comment"] is not None:
            line += source.count("\n", counted, found.start())
            counted = found.start()
            yield line, found["comment"]


def by_type(tree: ast.AST) -> Nodes:
    """As `ast.walk` does, at a quarter of its price."""
    nodes: dict[type[ast.AST], list[Any]] = {}
    todo: list[ast.AST] = [tree]
    for node in todo:  # which grows
        nodes.setdefault(type(node), []).append(node)
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                todo.append(value)
            elif isinstance(value, list):
                todo += [each for each in value if isinstance(each, ast.AST)]
    return nodes


def _defs(nodes: Nodes) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from nodes.get(ast.FunctionDef, ())
    yield from nodes.get(ast.AsyncFunctionDef, ())


def _strings(nodes: Nodes) -> Iterator[str]:
    for node in nodes.get(ast.Constant, ()):
        if isinstance(node.value, str):
            yield node.value


def _docstrings(nodes: Nodes) -> Iterator[tuple[int, str]]:
    for node in (*nodes[ast.Module], *nodes.get(ast.ClassDef, ()), *_defs(nodes)):
        for inner in node.body:
            value = inner.value if isinstance(inner, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield inner.lineno, re.sub(r"(?m)^ +", "", value.value)


def _definitions(nodes: Nodes) -> Iterator[tuple[int, str, str]]:
    for function in _defs(nodes):
        yield function.lineno, "function", function.name
    for cls in nodes.get(ast.ClassDef, ()):
        yield cls.lineno, "class", cls.name
    for node in nodes.get(ast.arg, ()):
        yield node.lineno, "value", node.arg
    for node in nodes.get(ast.Name, ()):
        if isinstance(node.ctx, ast.Store):
            yield node.lineno, "value", node.id
    for node in nodes.get(ast.Attribute, ()):
        if isinstance(node.ctx, ast.Store):
            yield node.lineno, "value", node.attr


def _functions(nodes: Nodes, lines: Sequence[str]) -> Iterator[Function]:
    """Every function of a module; the reason is a comment above it or in its first lines."""
    for node in _defs(nodes):
        top = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        docstring = node.body[0] if ast.get_docstring(node) is not None else None
        head = (docstring.end_lineno or 0) + 2 if docstring else node.body[0].lineno
        near = [*lines[max(top - 3, 0) : top - 1], *lines[node.lineno : head]]
        yield Function(
            node.name,
            node.lineno,
            (node.end_lineno or node.lineno) - node.lineno + 1,
            reasoned=any(REASON.match(line) for line in near),
            parameters=_parameters(node),
            many_reasoned=any(REASON_OF_MANY.match(line) for line in near),
        )


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    decorators = (ast.unparse(each).partition("(")[0] for each in node.decorator_list)
    if any(each.endswith(".command") for each in decorators):
        return 0
    given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    return sum(each.arg not in ("self", "cls") for each in given)


def _module(tree: ast.Module, nodes: Nodes) -> Module:
    module = Module()
    for node in tree.body:
        module.names |= set(_bound(node))
        if isinstance(node, ast.If | ast.Try):
            for inner in ast.walk(node):
                module.names |= set(_bound(inner))
    for cls in nodes.get(ast.ClassDef, ()):
        members = {name for inner in cls.body for name in _bound(inner)}
        members |= {
            inner.attr
            for inner in ast.walk(cls)
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
        }
        module.classes[cls.name] = module.classes.get(cls.name, set()) | members
        module.bases[cls.name] = [_last(base) for base in cls.bases]
    return module


def _last(node: ast.AST) -> str:
    if isinstance(node, ast.Subscript):
        return _last(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield (alias.asname or alias.name).split(".")[0]
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def _routes(nodes: Nodes) -> Iterator[tuple[str, str]]:
    """A route that is registered: `add_get(path, …)`, `web.get(path, …)`, a row with both words."""
    for row in nodes.get(ast.Tuple, ()):
        yield from _registered(row.elts, "")
    for call in nodes.get(ast.Call, ()):
        called = _last(call.func)
        registers = called.startswith("add_") or called[:1].isupper()
        if registers or (isinstance(call.func, ast.Attribute) and _last(call.func.value) == "web"):
            yield from _registered(call.args, called.removeprefix("add_").upper())


def _registered(parts: Iterable[ast.expr], verb: str) -> Iterator[tuple[str, str]]:
    words = [part.value for part in parts if isinstance(part, ast.Constant)]
    methods = {str(word) for word in (*words, verb) if word in METHODS}
    paths = [word for word in words if isinstance(word, str) and word.startswith("/")]
    yield from ((method, path) for method in methods for path in paths if ".*" not in path)


def _commands(nodes: Nodes) -> Iterator[str]:
    for node in nodes.get(ast.FunctionDef, ()):
        for decorator in node.decorator_list:
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            if _last(call) in ("command", "group"):
                given = decorator.args if isinstance(decorator, ast.Call) else []
                named = [arg.value for arg in given if isinstance(arg, ast.Constant)]
                yield str(named[0]) if named else node.name.strip("_")


def _settings(nodes: Nodes, strings: Iterable[str]) -> Iterator[str]:
    yield from (string for string in strings if SETTING.fullmatch(string))
    for node in nodes.get(ast.ClassDef, ()):
        if node.name == "Config":
            for name in (name for inner in node.body for name in _bound(inner)):
                yield f"STAGE_{name.upper()}"
                yield f"STAGE_{name.removesuffix('s').upper()}"
