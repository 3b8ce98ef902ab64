"""Functions that run more than once, and must be the same at each run."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from functools import partial
from typing import Final

from stage.authoring.slips.step_function import Rule, Slip, StepFunction, arguments, is_log, shown
from stage.authoring.source import Source

_CLOCK: Final = frozenset(
    {
        *("datetime.date.today", "datetime.datetime.now", "datetime.datetime.today"),
        *("datetime.datetime.utcnow", "time.time", "time.time_ns"),
    }
)
_DICE: Final = frozenset({"os.urandom", "posix.urandom", "uuid.uuid1", "uuid.uuid4"})
_DICE_MODULES: Final = frozenset({"random", "secrets"})
_SHARED: Final = (dict, list, set, bytearray, collections.deque)
_CHANGES: Final = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popleft"),
        *("popitem", "remove", "setdefault", "update"),
    }
)
_BROAD: Final = frozenset({"builtins.BaseException", "builtins.Exception"})
_SUPPRESS: Final = "contextlib.suppress"
_STOPS: Final = frozenset({"asyncio.CancelledError", "asyncio.exceptions.CancelledError"})


def _dice_in(source: Source, within: ast.AST) -> Iterator[ast.Call]:
    for call in ast.walk(within):
        if isinstance(call, ast.Call):
            name = source.full_name(call)
            if name in _DICE or name.partition(".")[0] in _DICE_MODULES:
                yield call


def _clock_in(source: Source, within: ast.AST) -> Iterator[ast.Call]:
    for call in ast.walk(within):
        if isinstance(call, ast.Call) and source.full_name(call) in _CLOCK:
            yield call


def other_request_each_time(function: StepFunction) -> Iterator[Slip]:
    """A clock or dice in a request of `http`; dice in an effect, which is repeated as it is."""
    if function.is_transaction:
        return
    source = function.source
    if function.is_effect:
        for node in (*_dice_in(source, source.tree), *_attempts_given(function)):
            yield function.warning(
                node,
                f"{shown(node)} is another value when a doubt is settled by a repeat, which is then"
                f" a second effect: take {function.saga}.key, the same at every attempt",
            )
        return
    for part in _parts_of_requests(source):
        for node in (
            *_dice_in(source, part),
            *_clock_in(source, part),
            *_attempts_in(function, part),
        ):
            yield function.warning(
                node,
                f"{shown(node)} makes another request at each attempt, and a call in doubt that"
                f" would go elsewhere is parked: build requests from {function.saga or 'the saga'}"
                f" alone, and name a thing by {function.saga or 'saga'}.key",
            )


def _attempts_in(function: StepFunction, within: ast.AST) -> Iterator[ast.Attribute]:
    """`saga.attempt`, which makes a new key of an old one."""
    for node in ast.walk(within):
        if isinstance(node, ast.Attribute) and function.of_saga(node, "attempt"):
            yield node


def _attempts_given(function: StepFunction) -> Iterator[ast.Attribute]:
    """The number of the attempt in what a client is given; a log line may have it."""
    for call in function.source.all_calls():
        if not is_log(function, call):
            for part in arguments(call):
                yield from _attempts_in(function, part)


def _parts_of_requests(source: Source) -> Iterator[ast.AST]:
    """The arguments of each request, and what the names in them were given."""
    named: set[str] = set()
    for call in source.requests():
        for part in arguments(call):
            yield part
            named |= {each.id for each in ast.walk(part) if isinstance(each, ast.Name)}
    for assign in source.of(ast.Assign):
        if any(isinstance(target, ast.Name) and target.id in named for target in assign.targets):
            yield assign.value


def impure_in(what: str, source: Source) -> Iterator[Slip]:
    """A clock or dice in a function that must give the same value for the same saga."""
    for call in (*_dice_in(source, source.tree), *_clock_in(source, source.tree)):
        yield Slip(
            False,
            f"{source.place(call)}: {shown(call)} gives another value each time, and {what} is"
            " asked for more than once: return what the saga and the results of its steps say",
        )


def shared_state(function: StepFunction) -> Iterator[Slip]:
    """A change of the process: nothing takes it back, and no replica sees it."""
    source = function.source
    changed: list[ast.AST] = list(source.of(ast.Global))
    for target in source.of(ast.Subscript):
        assigned = isinstance(target.ctx, ast.Store | ast.Del)
        if assigned and isinstance(source.value_of(target.value), _SHARED):
            changed.append(target)
    changed += filter(partial(_is_of_the_process, source), source.of(ast.Attribute))
    for call in source.all_calls():
        match call:
            case ast.Call(func=ast.Attribute(value=within, attr=name)) if name in _CHANGES:
                if isinstance(source.value_of(within), _SHARED):
                    changed.append(call)
            case ast.Call(func=ast.Name(id="next"), args=[within, *_]):
                if isinstance(source.value_of(within), Iterator):
                    changed.append(call)
    for node in changed[:1]:
        assert isinstance(node, ast.expr | ast.stmt)
        yield function.warning(
            node,
            f"{shown(node)} changes what belongs to the process: a step may run more than once, in"
            " another replica too, and nothing takes the change back. Write it by tx, or return it",
        )


def _is_of_the_process(source: Source, member: ast.Attribute) -> bool:
    """Whether a member is assigned of a thing that the module knows, and no function has made."""
    assigned = isinstance(member.ctx, ast.Store | ast.Del)
    return assigned and source.value_of(member.value) is not None


def errors_that_are_swallowed(function: StepFunction) -> Iterator[Slip]:
    """A broad `except` without a `raise` around an await, or around what an answer says."""
    for block in function.source.of(ast.With):  # suppress() is none for `async with`
        if _may_fail(function, block.body):
            yield from _suppressed(function, block)
    for node in function.source.of(ast.Try):
        if not _may_fail(function, node.body):
            continue
        for caught in node.handlers:
            if any(isinstance(each, ast.Raise) for each in ast.walk(caught)):
                continue
            if text := _swallows(function, caught):
                yield function.warning(caught, text)


def _may_fail(function: StepFunction, body: list[ast.stmt]) -> bool:
    """Whether something is awaited, or an answer read."""
    answers = function.answers()
    return any(
        isinstance(each, ast.Await) or (isinstance(each, ast.Name) and each.id in answers)
        for part in body
        for each in ast.walk(part)
    )


def _suppressed(function: StepFunction, block: ast.With) -> Iterator[Slip]:
    """`with suppress(Exception)`, which is such an `except` too."""
    for item in block.items:
        call = item.context_expr
        if not isinstance(call, ast.Call) or function.source.full_name(call) != _SUPPRESS:
            continue
        if _BROAD & {function.source.full_name(kind) for kind in call.args}:
            what = "error of the database" if function.is_transaction else "error, a gateway's too,"
            yield function.warning(
                call,
                f"{shown(call)} takes every {what} for a success: name the one that is meant, and"
                " let others out",
            )


def _swallows(function: StepFunction, caught: ast.excepthandler) -> str:
    assert isinstance(caught, ast.ExceptHandler)
    kinds = caught.type.elts if isinstance(caught.type, ast.Tuple) else [caught.type]
    names = {"" if kind is None else function.source.full_name(kind) for kind in kinds}
    # An unknown name is empty too, so a bare `except` is asked for by itself.
    stops = caught.type is None or "builtins.BaseException" in names or names & _STOPS
    if stops and not function.is_transaction:
        return (
            "this except catches CancelledError, by which a time-out ends the function, so that"
            " what it returns is in doubt: catch Exception at most, and clean up in finally"
        )
    if caught.type is not None and not names & _BROAD:
        return ""
    if function.is_transaction:
        return (
            "this except takes every error of the database for a success: name the one that is"
            " meant, and let others out, which roll back and are tried again"
        )
    return (
        "this except takes every error for a success, a page of a gateway too: name the one that"
        " is meant, and let others out, which are in doubt and get settled"
    )


def changed_saga(function: StepFunction) -> Iterator[Slip]:
    """An assignment to the input or the data of the saga, which are copies."""
    targets: list[ast.Attribute | ast.Subscript] = [*function.source.of(ast.Attribute)]
    for target in (*targets, *function.source.of(ast.Subscript)):
        if isinstance(target.ctx, ast.Store | ast.Del) and function.of_saga(
            target.value, "data", "input"
        ):
            yield function.warning(
                target,
                f"{shown(target)} changes a copy, which no other step sees: return what the steps"
                " behind it need, and read it by saga.result",
            )


REPEATS: Final[tuple[Rule, ...]] = (
    other_request_each_time,
    shared_state,
    changed_saga,
    errors_that_are_swallowed,
)
