"""Functions that run more than once, and must be the same at each run."""

from __future__ import annotations

import ast
import collections
from collections.abc import Iterator
from functools import partial
from typing import Final

from stage.authoring.outcomes import Refused
from stage.authoring.slips.step_function import Rule, Slip, StepFunction, arguments, is_log, shown
from stage.authoring.source import Source
from stage.core.commands import AttemptKind

_CLOCK: Final = frozenset(
    {
        *("datetime.date.today", "datetime.datetime.now", "datetime.datetime.today"),
        *("datetime.datetime.utcnow", "time.time", "time.time_ns", "time.monotonic"),
        *("time.ctime", "time.gmtime", "time.localtime", "time.perf_counter", "time.strftime"),
    }
)
_DICE: Final = frozenset(
    {
        *("os.urandom", "posix.urandom", "uuid.uuid1", "uuid.uuid4"),
        *("_socket.gethostname", "builtins.hash", "builtins.id", "os.getpid", "posix.getpid"),
    }
)
"""Functions whose value is another one each time, or in each process."""
_DICE_MODULES: Final = frozenset({"random", "secrets"})
_SHARED: Final = (dict, list, set, bytearray, collections.deque)
_CHANGES: Final = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popleft"),
        *("popitem", "remove", "setdefault", "update"),
    }
)
_BROAD: Final = frozenset({"builtins.BaseException", "builtins.Exception"})
_LOST: Final = frozenset(
    {
        *("builtins.ConnectionAbortedError", "builtins.ConnectionError"),
        *("builtins.ConnectionResetError", "builtins.OSError", "builtins.TimeoutError"),
    }
)
"""Errors behind which an effect may stand."""
_UNREAD: Final = frozenset(
    {
        *("builtins.AttributeError", "builtins.IndexError", "builtins.KeyError"),
        *("builtins.LookupError", "builtins.TypeError", "builtins.ValueError"),
    }
)
_NO_JSON: Final = frozenset(
    {"DecodeError", "JSONDecodeError", "MsgspecError", "NotJson", "ValidationError"}
)
"""Errors of reading an answer which is not the API's."""
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
    for within, part in _parts_of_requests(source):
        for node in (
            *_dice_in(within, part),
            *_clock_in(within, part),
            *_attempts_in(function, part),
        ):
            yield Slip(
                False,
                f"{within.place(node)}: {shown(node)} makes another request at each attempt, and a"
                " call in doubt that would go elsewhere is parked: build requests from"
                f" {function.saga or 'the saga'} alone, and name a thing by"
                f" {function.saga or 'saga'}.key",
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


def _parts_of_requests(source: Source) -> Iterator[tuple[Source, ast.AST]]:
    """All that a request is made of, with its source: what its names hold, functions it calls."""
    for call in source.requests():
        for part in (each for given in arguments(call) for each in source.origins(given)):
            yield source, part
            for asked in (each for each in ast.walk(part) if isinstance(each, ast.Call)):
                if (called := source.beside(asked)) is not None:
                    yield from ((each, each.tree) for each in called.with_called())


def decisions_by_dice(function: StepFunction) -> Iterator[Slip]:
    """A clock or dice in a condition of a call or a probe, which runs again after a doubt."""
    if not function.is_call or function.compensates:
        return
    source = function.source
    choices: list[ast.If | ast.While | ast.IfExp] = [*source.of(ast.If), *source.of(ast.While)]
    for test in (choice.test for choice in (*choices, *source.of(ast.IfExp))):
        for part in source.origins(test):
            for node in (*_dice_in(source, part), *_clock_in(source, part)):
                yield function.warning(
                    test,
                    f"{shown(node)} decides otherwise when this runs again after a doubt, and what"
                    " the first run did stands: decide in a transaction before it, whose result"
                    f" is kept, and read {function.saga or 'saga'}.result",
                )


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
                text = _takes_for_a_no(function, caught)
            else:
                text = _takes_for_nothing(function, caught) or _swallows(function, caught)
            if text:
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


def _caught(function: StepFunction, caught: ast.ExceptHandler) -> set[str]:
    """The full names of the errors that an `except` takes; none of them for a bare one."""
    kinds = caught.type.elts if isinstance(caught.type, ast.Tuple) else [caught.type]
    return {"" if kind is None else function.source.full_name(kind) for kind in kinds}


def _takes_for_a_no(function: StepFunction, caught: ast.ExceptHandler) -> str:
    """`except Exception: raise Refused(...)`: the effect may stand, and would not be undone."""
    refuses = any(
        isinstance(each, ast.Raise)
        and each.exc is not None
        and function.source.makes(each.exc, Refused)
        for each in caught.body
    )
    doubtful = caught.type is None or _is_doubtful(function, _caught(function, caught))
    if not refuses or not doubtful or function.is_transaction or function.compensates:
        return ""
    return (
        "this except takes an answer that nobody understood, or none, for a no: the effect may"
        " stand, and would not be compensated. Raise Refused for the API's own no alone, and let"
        " other errors out, which are in doubt and get settled"
    )


def _takes_for_nothing(function: StepFunction, caught: ast.ExceptHandler) -> str:
    """A time-out of an effect that is a success, and an unread answer that says "not there"."""
    names = _caught(function, caught)
    if any(isinstance(each, ast.Await) for each in ast.walk(caught)):
        return ""  # it may ask what happened
    if function.is_effect and names & _LOST:
        return (
            "this except takes a time-out or a broken connection for an end, and nobody knows"
            " whether the effect stands: let it out, and the doubt is settled by the probe or by"
            " a repeat"
        )
    finds_nothing = any(
        isinstance(each, ast.Return)
        and (each.value is None or (isinstance(each.value, ast.Constant) and not each.value.value))
        for each in caught.body
    )
    if function.kind is AttemptKind.PROBE and finds_nothing and _is_doubtful(function, names):
        return (
            'this except takes an answer that nobody understood for "not there", and the effect'
            " would be made again: return None for the API's own word alone, and let this out"
        )
    return ""


def _is_doubtful(function: StepFunction, names: set[str]) -> bool:
    """Whether errors of those names say nothing of what the API did."""
    unread = function.is_call and any(
        name in _UNREAD or name.rpartition(".")[2] in _NO_JSON for name in names
    )
    return bool(names & (_BROAD | _LOST)) or unread


def _swallows(function: StepFunction, caught: ast.ExceptHandler) -> str:
    names = _caught(function, caught)
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
    decisions_by_dice,
    shared_state,
    changed_saga,
    errors_that_are_swallowed,
)
