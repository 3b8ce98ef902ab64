"""Members that an answer, a client or a saga does not have: an error at every run.

Only what is certain: a name that may hold anything else, or of which the function asks what it is,
is left to the run.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, get_origin, is_typeddict

from stage.authoring.declaration import StageDeclaration
from stage.authoring.habits import (
    OF_A_REQUEST,
    OF_A_SAGA,
    OF_AN_ANSWER,
    OF_HTTP,
    lacks,
    members_of,
)
from stage.authoring.http import Http, Response
from stage.authoring.saga import Saga
from stage.authoring.slips.step_function import Rule, Slip, StepFunction, shown
from stage.authoring.source import REQUESTS, RUNS_SQL, Source
from stage.ports.store import Tx

_ASKS_OR_CHANGES: Final = frozenset({"hasattr", "isinstance", "setattr", "type", "vars"})
_FORGIVEN: Final = frozenset({"AttributeError", "KeyError", "LookupError", "TypeError"})
_KEYWORDS: Final = frozenset(inspect.signature(Http.request).parameters) - {"self"}
_METHODS: Final = frozenset({"json", "text"})
_VALUES: Final = frozenset({"body", "headers", "status"})


def members_of_an_answer(function: StepFunction) -> Iterator[Slip]:
    """`answer.status_code`, `answer["id"]`, `await answer.json()`: habits of other clients."""
    if not function.is_call or not _holds(function.source, function.source.parameters[:1]):
        return
    source = function.source
    for answer in _things(source, lambda node: _is_answer(source, node)):
        around, text = source.parent(answer), ""
        match around:
            case ast.Subscript(value=value, slice=key, ctx=ast.Load()) if value is answer:
                text = f"an answer has no members in brackets: write answer.json()[{shown(key)}]"
            case ast.Attribute(attr=name, ctx=ast.Load()):
                text = _wrong_member(source, around, name)
        if text and isinstance(around, ast.expr) and not _is_forgiven(source, around):
            yield function.certain(around, f"{shown(around)}: {text}")


def _is_answer(source: Source, node: ast.AST) -> bool:
    match node:
        case ast.Await(value=ast.Call() as call):
            return source.is_request(call)
    return False


def _wrong_member(source: Source, member: ast.Attribute, name: str) -> str:
    """Why that member of an answer fails as it is used; empty where it does not."""
    around = source.parent(member)
    is_called = isinstance(around, ast.Call) and around.func is member
    if name.startswith("_") or _is_stored(source, member):
        return ""
    if not hasattr(Response, name) and name != "looked_at":
        return lacks("an answer", name, OF_AN_ANSWER, members_of(Response))
    if name in _VALUES and is_called:
        return f"{name} is a value: leave the brackets out"
    if name in _METHODS and is_called and isinstance(source.parent(around or member), ast.Await):
        return "the answer was read whole, and nothing is to be awaited: leave the await out"
    if name in _METHODS and not is_called and _is_used_as_a_value(member, around):
        return f"{name} is a method: write answer.{name}()"
    if name == "headers" and (header := _asked_by_its_case(member, source)):
        return f"the names of headers are in lower case here: write {header.lower()!r}"
    return ""


def _is_used_as_a_value(member: ast.expr, around: ast.AST | None) -> bool:
    match around:
        case ast.Subscript(value=value):
            return value is member
        case ast.Attribute(attr=name):
            return not name.startswith("_")
        case ast.Compare(ops=ops):
            return not any(isinstance(each, ast.Is | ast.IsNot) for each in ops)
        case ast.FormattedValue():
            return True
    return False


def _asked_by_its_case(headers: ast.expr, source: Source) -> str:
    """The name of a header with a capital letter, of which there is none; or nothing."""
    around = source.parent(headers)
    name: ast.expr | None = None
    match around:
        case ast.Subscript(value=value, slice=key) if value is headers:
            name = key
        case ast.Attribute(attr="get"):
            call = source.parent(around)
            if isinstance(call, ast.Call) and call.func is around and call.args:
                name = call.args[0]
        case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()]):
            name = left
    match name:
        case ast.Constant(value=str(text)) if text != text.lower():
            return text
    return ""


def words_of_other_requests(function: StepFunction) -> Iterator[Slip]:
    """`http.post(..., timeout=5)`, `async with http.post(...)`: as other clients are called."""
    if not function.is_call or not _holds(function.source, function.source.parameters[:1]):
        return
    for call in function.source.requests():
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        known = _KEYWORDS if method == "request" else _KEYWORDS - {"method"}
        for each in call.keywords:
            if each.arg and each.arg not in known:
                takes = f"it takes {', '.join(f'{name}=' for name in _OPTIONS)}"
                mend = OF_A_REQUEST.get(each.arg, takes)
                text = f"{shown(call.func)}(...) takes no {each.arg}=: {mend}"
                yield function.certain(each.value, text)
        given = [each for each in call.args if not isinstance(each, ast.Starred)]
        if len(given) > len(known - {*_OPTIONS}):
            yield function.certain(
                given[-1],
                f"{shown(call.func)}(...) takes only the path by position: write json= or data=",
            )
        if isinstance(function.source.parent(call), ast.withitem):
            yield function.certain(
                call,
                f"{shown(call.func)}(...) is awaited and not entered, and no answer is released:"
                f" write answer = await {shown(call.func)}(...)",
            )


_OPTIONS: Final = ("json", "data", "params", "headers")


def members_of_a_client(function: StepFunction) -> Iterator[Slip]:
    """`http.headers`, `tx.row_factory`: a member that `http` or `tx` does not have."""
    source = function.source
    if function.is_effect or not _holds(source, source.parameters[:1]):
        return
    kind: Any = Tx if function.is_transaction else Http
    has = ", ".join(sorted(RUNS_SQL if function.is_transaction else REQUESTS))
    mends = {} if function.is_transaction else OF_HTTP
    for member in _members(source, source.parameters[0]):
        around = source.parent(member)
        is_called = isinstance(around, ast.Call) and around.func is member
        if not is_called and not hasattr(kind, member.attr):  # a method is another rule's
            text = lacks(source.parameters[0], member.attr, mends, has)
            yield function.certain(member, text)


def members_of_its_saga(function: StepFunction) -> Iterator[Slip]:
    """`saga.saga_id`, `saga.input["order_id"]`, `saga.result("charge")`."""
    if function.is_given_saga and function.saga:
        yield from members_of_a_saga(function.stage, function.source, function.saga)


def members_of_a_saga(
    stage: StageDeclaration[Any, Any], source: Source, *saga: str
) -> Iterator[Slip]:
    """Members that the saga of that name does not have, or its input, of any function."""
    if not _holds(source, saga):
        return
    for member in _members(source, saga[0]):
        if not hasattr(Saga, member.attr):
            text = lacks(saga[0], member.attr, OF_A_SAGA, members_of(Saga))
            yield _certain(source, member, text)
    for call in source.all_calls():
        match call:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="key_of" | "result"), args=[asked]
            ) if name == saga[0] and _is_no_step(source, asked):
                step = _text(asked) or "step"
                yield _certain(
                    source,
                    call,
                    f"{shown(call)} takes the function of a step itself: write"
                    f" {shown(call.func)}({step}), with the function under @{stage.name}.call or"
                    " its like",
                )
    yield from _of_the_input(stage.accepts.kind, source, saga[0])


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)) if text.isidentifier():
            return text
    return ""


def _is_no_step(source: Source, asked: ast.expr) -> bool:
    if isinstance(asked, ast.Constant | ast.JoinedStr):
        return True
    found = source.value_of(asked)
    return inspect.isroutine(found) and not hasattr(found, "decode_result")


def _of_the_input(kind: Any, source: Source, saga: str) -> Iterator[Slip]:
    """Members that the type which the stage accepts does not have, as they are asked for."""

    def is_input(node: ast.AST) -> bool:
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr="input"):
                return name == saga
        return False

    is_dict = is_typeddict(kind) or kind is dict or get_origin(kind) is dict
    fields = _fields(kind)
    if fields is None and not is_dict:
        return
    keys = frozenset(kind.__annotations__) if is_typeddict(kind) else None
    for value in _things(source, is_input):
        around, text = source.parent(value), ""
        match around:
            case ast.Subscript(value=within, slice=ast.Constant(value=str(key)), ctx=ast.Load()):
                if within is value and not is_dict and not hasattr(kind, "__getitem__"):
                    text = f"it is {kind.__name__}, no dictionary: write {shown(value)}.{key}"
                elif within is value and keys is not None and key not in keys:
                    text = f"{kind.__name__} has no {key}: it has {', '.join(sorted(keys))}"
            case ast.Attribute(attr=name, ctx=ast.Load()) if is_dict:
                if not hasattr(dict, name):
                    text = f"it is a dictionary: write {shown(value)}[{name!r}]"
            case ast.Attribute(attr=name, ctx=ast.Load()) if fields is not None:
                missing = name not in fields and not hasattr(kind, name)
                if missing and not name.startswith("_") and not _is_stored(source, around):
                    text = f"{kind.__name__} has no {name}: it has {', '.join(sorted(fields))}"
        if text and isinstance(around, ast.expr) and not _is_forgiven(source, around):
            yield _certain(source, around, f"{shown(around)}: {text}")


def _fields(kind: Any) -> frozenset[str] | None:
    """The members of a Struct, a dataclass or a pydantic model; None where it may have others."""
    if not isinstance(kind, type):
        return None
    own = [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in _LIBRARIES]
    if any(name in vars(each) for each in own for name in ("__getattr__", "__getattribute__")):
        return None
    for names in ("__struct_fields__", "__dataclass_fields__", "model_fields"):
        fields = getattr(kind, names, None)
        if fields is not None and not _takes_more(kind):
            return frozenset(fields)
    return None


_LIBRARIES: Final = frozenset({"builtins", "msgspec", "pydantic"})


def _takes_more(kind: Any) -> bool:
    """Whether a value of that type may have members that the type does not name."""
    if hasattr(kind, "__struct_fields__"):
        return bool(kind.__struct_config__.dict)
    if hasattr(kind, "model_config"):
        return bool(kind.model_config.get("extra") == "allow")
    made = getattr(kind.__init__, "__code__", None)
    return hasattr(kind, "__post_init__") or made is None or made.co_filename != "<string>"


def _things(source: Source, is_one: Callable[[ast.AST], bool]) -> Iterator[ast.expr]:
    """Each expression that certainly is such a thing: itself, or a name that holds nothing else."""
    given: dict[str, int] = {}
    found: list[ast.expr] = []
    for node in filter(is_one, source.of(ast.expr)):
        found.append(node)
        around = source.parent(node)
        match around:
            case ast.Assign(targets=targets):
                names = [each.id for each in targets if isinstance(each, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case ast.NamedExpr(target=ast.Name(id=name)):
                names = [name]
                found.append(around)
            case _:
                names = []
        for name in names:
            given[name] = given.get(name, 0) + 1
    for name, times in given.items():
        if times == _times_bound(source, name):
            found += source.loads(name)
    asked = _asked_about(source)
    return (each for each in found if shown(each) not in asked)


def _members(source: Source, name: str) -> Iterator[ast.Attribute]:
    """The members of that name which the function reads and does not set itself."""
    for use in source.loads(name):
        member = source.parent(use)
        if (
            isinstance(member, ast.Attribute)
            and isinstance(member.ctx, ast.Load)
            and not member.attr.startswith("_")
            and not _is_stored(source, member)
            and not _is_forgiven(source, member)
        ):
            yield member


def _holds(source: Source, parameter: tuple[str, ...]) -> bool:
    """Whether a parameter holds all along the thing that it is given, and nobody asks what."""
    return (
        bool(parameter)
        and _times_bound(source, parameter[0]) == 1
        and parameter[0] not in _asked_about(source)
    )


def _times_bound(source: Source, name: str) -> int:
    """How often a name is given a value: by `=`, `for`, `with`, `case`, or as a parameter."""
    return sum(_binds(node, name) for node in source.of(ast.AST))


def _binds(node: ast.AST, name: str) -> bool:
    match node:
        case ast.Name(id=own, ctx=ctx):
            return own == name and not isinstance(ctx, ast.Load)
        case ast.keyword() | ast.Attribute():
            return False
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            return name in names
    return any(getattr(node, each, None) == name for each in ("arg", "asname", "name", "rest"))


def _asked_about(source: Source) -> set[str]:
    """The expressions of which the function asks what they are, or to which it adds something."""
    return {
        shown(call.args[0])
        for call in source.all_calls()
        if isinstance(call.func, ast.Name) and call.func.id in _ASKS_OR_CHANGES and call.args
    }


def _is_stored(source: Source, member: ast.Attribute) -> bool:
    """Whether the function gives that member a value itself."""
    return any(
        each.attr == member.attr
        and not isinstance(each.ctx, ast.Load)
        and shown(each) == shown(member)
        for each in source.of(ast.Attribute)
    )


def _is_forgiven(source: Source, node: ast.AST) -> bool:
    """Whether an error for a member that is not there is caught by its name."""
    around = source.parent(node)
    while around is not None:
        caught: list[ast.AST] = []
        match around:
            case ast.Try(handlers=handlers):
                caught = [each.type for each in handlers if each.type is not None]
            case ast.With(items=items) | ast.AsyncWith(items=items):
                caught = [each.context_expr for each in items]
        names = (each for part in caught for each in ast.walk(part))
        if any(isinstance(each, ast.Name) and each.id in _FORGIVEN for each in names):
            return True
        around = source.parent(around)
    return False


def _certain(source: Source, node: ast.expr, text: str) -> Slip:
    return Slip(True, f"{source.place(node)}: {text}")


MEMBERS: Final[tuple[Rule, ...]] = (
    members_of_an_answer,
    words_of_other_requests,
    members_of_a_client,
    members_of_its_saga,
)
