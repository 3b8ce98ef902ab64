"""Requests and answers of a call: what is sent where, and which answers are believed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final

from stage.authoring.annotations import MISSING
from stage.authoring.http import Http
from stage.authoring.outcomes import Refused
from stage.authoring.slips.codes import WayTo, block_of, codes_asked, ends, is_status, takes_any
from stage.authoring.slips.step_function import Rule, Slip, StepFunction, arguments, shown
from stage.authoring.source import REQUESTS
from stage.authoring.steps import CallStep, alternatives
from stage.core.commands import AttemptKind
from stage.ports.credentials import CREDENTIAL_HEADERS, ENGINE_HEADERS

_OWN_NO: Final = 402
"""The one code that no gateway gives."""
_MAY_HAVE_ACTED: Final = frozenset({408, 425, 500, 502, 504})
_BODY: Final = frozenset({"body", "json", "text"})
_SAFE: Final = "get"
_TASKS: Final = frozenset(
    {
        *("as_completed", "create_task", "ensure_future", "gather", "run_coroutine_threadsafe"),
        *("shield", "wait"),
    }
)
"""Functions of asyncio that give what they are given to a task."""
_LOOK: Final = "look for a member that only the API gives, such as answer.json()['code']"


def paths(function: StepFunction) -> Iterator[Slip]:
    """A path that is a URL, or begins without a slash."""
    if not function.is_call:
        return
    for call in function.source.requests():
        at = 1 if isinstance(call.func, ast.Attribute) and call.func.attr == "request" else 0
        text = _beginning(call.args[at]) if len(call.args) > at else None
        if text is None or (text.startswith("/") and not text.startswith("//")):
            continue
        yield function.certain(
            call,
            f"the path {text!r} does not begin with one slash, so that nothing is sent: write a"
            " path such as '/charges'. The URL before it is the operator's:"
            f" --external {function.step.rules.peer}=URL",
        )


def _beginning(path: ast.expr) -> str | None:
    """The text with which a path begins; None where that is not known."""
    match path:
        case ast.Constant(value=str(text)) | ast.JoinedStr(values=[ast.Constant(value=text), *_]):
            return str(text)
        case ast.BinOp(left=left, op=ast.Add()):
            return _beginning(left)
    return None


def headers(function: StepFunction) -> Iterator[Slip]:
    """A header of the engine or of the operator, written as a text."""
    if not function.is_call:
        return
    for call in function.source.requests():
        given = [each.value for each in call.keywords if each.arg == "headers"]
        for key in (each for part in given if isinstance(part, ast.Dict) for each in part.keys):
            name = key.value if isinstance(key, ast.Constant) else ""
            lower = str(name).lower()
            if key is None or lower not in ENGINE_HEADERS | CREDENTIAL_HEADERS:
                continue
            whose = (
                "the engine sets it: leave it out"
                if lower in ENGINE_HEADERS
                else "credentials are the operator's: leave it out, and set bearer_file, basic_file"
                f" or headers_file in [externals.{function.step.rules.peer}]"
            )
            yield function.certain(key, f"header {name!r} is refused when the step runs: {whose}")


def believes_a_code(function: StepFunction) -> Iterator[Slip]:
    """A no, or a "not there", that is read from the code alone."""
    if not function.is_call:
        return
    answers = set(function.answers())
    for branch in function.source.of(ast.If):
        codes = codes_asked(branch.test, answers)
        if codes is None or (codes == {_OWN_NO} and function.kind is not AttemptKind.PROBE):
            continue
        if any(_is_a_no(function, each) for each in branch.body):
            yield function.warning(branch, _believed(function, shown(branch.test)))
    for choice in function.source.of(ast.Match):
        if not is_status(choice.subject, answers):
            continue
        for case in choice.cases:
            codes = {
                each.value.value
                for each in ast.walk(case.pattern)
                if isinstance(each, ast.MatchValue) and isinstance(each.value, ast.Constant)
            }
            if codes - {_OWN_NO} and any(_is_a_no(function, each) for each in case.body):
                yield function.warning(case.body[0], _believed(function, f"case {sorted(codes)}"))


def believes_any_other_code(function: StepFunction) -> Iterator[Slip]:
    """A no for every code that is not named: a gateway's 403, 404 and 409 are among them.

    A request that only reads leaves nothing behind a wrong no, and an undo is judged by whether
    its answer is read at all.
    """
    if not function.is_call or function.compensates:
        return
    for no in function.source.of(ast.stmt):
        if not _is_a_no(function, no) or not _is_of_other_codes(function, no):
            continue
        if isinstance(no, ast.Return) and function.passed_as is not None:
            continue  # its caller may look further
        way = WayTo(function, no)
        asked = way.decided_by()
        if asked is None or (_method(asked) == _SAFE and function.kind is AttemptKind.EXECUTE):
            continue
        if codes := sorted(way.codes_of_gateways()):
            which = " and ".join(map(str, codes[:1] + codes[1:][-1:]))
            yield function.warning(
                no, _believed(function, f"{shown(no)} for any other code, such as {which},")
            )


def _is_of_other_codes(function: StepFunction, no: ast.stmt) -> bool:
    """Whether it stands in an `else`, in a `case _`, or right behind a test that ends."""
    block, at = block_of(function, no)
    answers = set(function.answers())
    match function.source.parent(no):
        case ast.If(orelse=other) if other is block:
            return True
        case ast.match_case() as case if takes_any(case):
            return True
        case ast.If(test=test) if codes_asked(test, answers) is not None:
            return False  # another rule says that
    match block[at - 1] if at else None:
        case ast.If(test=test, body=body):
            return codes_asked(test, answers) is not None and ends(body)
        case ast.Match(subject=subject, cases=cases):
            return is_status(subject, answers) and all(ends(each.body) for each in cases)
    return False


def _believed(function: StepFunction, test: str) -> str:
    cost = {
        AttemptKind.EXECUTE: "the effect may stand, and would not be compensated",
        AttemptKind.PROBE: "the effect may stand, and would be made again",
        AttemptKind.COMPENSATE: "the effect may stand in a saga that is called compensated",
    }[function.kind]
    return f"{test} believes a code alone, which a gateway gives too; {cost}: {_LOOK}"


def _is_a_no(function: StepFunction, statement: ast.stmt) -> bool:
    """Whether it ends the function with "nothing is there", or "nothing happened"."""
    match statement:
        case ast.Raise(exc=raised) if raised is not None:
            return function.source.makes(raised, Refused)
        case ast.Return(value=None | ast.Constant(value=None)):
            return function.kind is not AttemptKind.EXECUTE
    return False


def answers_not_read(function: StepFunction) -> Iterator[Slip]:
    """An answer of which nothing is looked at, or no word of the API."""
    if not function.is_call or function.kind is AttemptKind.PROBE:
        return
    source = function.source
    for call in source.requests():
        if not isinstance(source.parent(call), ast.Await) or _method(call) == _SAFE:
            continue
        name, around = source.named(call), source.parent(source.parent(call) or call)
        if isinstance(around, ast.Expr) or (name and not any(source.loads(name))):
            yield function.warning(
                call,
                "its answer is not looked at, and a 400 or a 404 is given to the function, so that"
                f" it counts as done: raise unless the API's own word is there; {_LOOK}",
            )
        elif function.compensates and name and not _reads_the_body(function, name):
            yield function.warning(
                call,
                "the undo is believed by its code alone, and a login page or a gateway says 200"
                f" too: raise Transient unless the API's own word is there; {_LOOK}",
            )


def _reads_the_body(function: StepFunction, name: str) -> bool:
    for use in function.source.loads(name):
        around = function.source.parent(use)
        if not isinstance(around, ast.Attribute) or around.attr in _BODY:
            return True
    return False


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def any_answer_is_a_yes(function: StepFunction) -> Iterator[Slip]:
    """`return answer.json()`: the API's own no, and a page that is JSON, count as done."""
    step = function.step
    executes = isinstance(step, CallStep) and function.kind is AttemptKind.EXECUTE
    if not executes or step.codec.members() or _asks_for_the_status(function):
        return
    for each in function.source.of(ast.Return):
        match each.value:
            case ast.Call(func=ast.Attribute(value=ast.Call() as body, attr="get")):
                nothing = step.returns in (MISSING, Any, object) or None in alternatives(
                    step.returns
                )
                believed = nothing and _is_json(function, body)
            case ast.Call(args=[]) as body:
                believed = _is_json(function, body)
            case _:
                believed = False
        if believed:
            yield function.warning(
                each,
                f"{shown(each)} takes every JSON for a success, the API's own no too: raise Refused"
                " for its no, and return a member that only its yes has, such as"
                " answer.json()['id']",
            )


def _asks_for_the_status(function: StepFunction) -> bool:
    answers = function.answers()
    return any(is_status(each, set(answers)) for each in function.source.of(ast.Attribute))


def effects_of_a_probe(function: StepFunction) -> Iterator[Slip]:
    """A probe that asks for more than a function."""
    if not function.is_call or function.kind is not AttemptKind.PROBE:
        return
    for call in function.source.requests():
        if _method(call) in ("delete", "patch", "post", "put"):
            yield function.warning(
                call,
                f"a probe looks up what a call left, and is asked again and again:"
                f" {shown(call.func)}(...) may leave another effect. Ask by http.get",
            )


def probes_of_any_saga(function: StepFunction) -> Iterator[Slip]:
    """A probe whose request is the same for every saga."""
    probes = function.is_call and function.kind is AttemptKind.PROBE
    if not probes or function.passed_as is not None:
        return
    source = function.source
    calls = list(source.requests())
    read = [*source.loads(function.saga)] if function.saga else []
    if calls and not read:
        yield function.warning(
            calls[0],
            "the probe asks for the same whatever the saga is, and finds what another one has made:"
            f" look it up by {function.saga or 'saga'}.key",
        )


def words_of_other_clients(function: StepFunction) -> Iterator[Slip]:
    """`http.stream(...)`: a method that `http` does not have."""
    if not function.is_call:
        return
    for name, call in function.source.methods():
        if not hasattr(Http, name):
            has = ", ".join(sorted(REQUESTS))
            yield function.certain(
                call, f"{function.source.parameters[0]} has no {name}(): it has {has}"
            )


def requests_in_tasks(function: StepFunction) -> Iterator[Slip]:
    """`asyncio.gather(http.post(...), ...)`: only the function itself can hand a request out."""
    source = function.source
    if not function.is_call or not source.parameters:
        return
    kept = {
        source.named(call)
        for call in source.requests()
        if not isinstance(source.parent(call), ast.Await)
    }
    given = {source.parameters[0], *kept} - {""}
    for call in source.all_calls():
        if _makes_tasks(function, call) and any(
            isinstance(each, ast.Name) and each.id in given
            for part in arguments(call)
            for each in ast.walk(part)
        ):
            yield function.certain(
                call,
                f"{shown(call.func)}(...) puts a request into a task of its own, from where it is"
                " not sent: await each request in the function itself. Calls at the same time are"
                " steps with one together='word', each with its own compensation",
            )


def _makes_tasks(function: StepFunction, call: ast.Call) -> bool:
    module, _, name = function.source.full_name(call).rpartition(".")
    if module.partition(".")[0] == "asyncio":
        return name in _TASKS
    return isinstance(call.func, ast.Attribute) and call.func.attr in ("create_task", "start_soon")


def pages_that_find_nothing(function: StepFunction) -> Iterator[Slip]:
    """`answer.json().get("data", [])` in a probe: a page without the member finds nothing."""
    if not function.is_call or function.kind is not AttemptKind.PROBE:
        return
    source = function.source
    bodies = {
        name
        for call in source.all_calls()
        if _is_json(function, call) and (name := source.named(call))
    }
    for call in source.all_calls():
        match call:
            case ast.Call(func=ast.Attribute(value=body, attr="get"), args=[member, *default]):
                pass
            case _:
                continue
        if not (isinstance(body, ast.Name) and body.id in bodies) and not (
            isinstance(body, ast.Call) and _is_json(function, body)
        ):
            continue
        around = source.parent(call)
        if any(map(_is_empty, default)) or (
            isinstance(around, ast.BoolOp) and any(map(_is_empty, around.values))
        ):
            yield function.warning(
                call,
                f"{shown(call)} finds nothing in a page of a gateway, which lacks the member too,"
                " and the effect would be made again: read"
                f" {shown(body)}[{shown(member)}], so that such an answer is in doubt",
            )


def _is_json(function: StepFunction, call: ast.Call) -> bool:
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr="json"):
            return name in function.answers()
    return False


def _is_empty(node: ast.expr) -> bool:
    match node:
        case ast.List(elts=[]) | ast.Tuple(elts=[]) | ast.Dict(keys=[]):
            return True
    return False


def requests_in_a_loop(function: StepFunction) -> Iterator[Slip]:
    """A function that repeats its request, where the engine does."""
    if not isinstance(function.step, CallStep) or function.kind is not AttemptKind.EXECUTE:
        return
    for call in function.source.requests():
        around: ast.AST | None = call
        while around is not None and not isinstance(around, ast.For | ast.While | ast.AsyncFor):
            around = function.source.parent(around)
        if around is not None and function.step.requests == 1:
            yield function.warning(
                call,
                "a request in a loop is a further request, which is not sent: the engine repeats a"
                " call under the same key, attempts_max times. Make it once",
            )


def declared_codes(function: StepFunction) -> Iterator[Slip]:
    """Codes that are believed without a look at the body, and that gateways give."""
    if not isinstance(function.step, CallStep) or function.kind is not AttemptKind.EXECUTE:
        return
    where = function.step.place
    if doubtful := sorted(function.step.transient_on & _MAY_HAVE_ACTED):
        yield Slip(
            False,
            f"{where}: transient_on={doubtful} says that nothing happened, and an API or a gateway"
            " gives that code when it may have: leave it out, for a doubt is settled",
        )
    if doubtful := sorted(function.step.refused_on - {_OWN_NO}):
        yield Slip(
            False,
            f"{where}: refused_on={doubtful} is believed without a look at the body, and a gateway"
            f" gives it too: raise Refused in the function; {_LOOK}",
        )


ANSWERS: Final[tuple[Rule, ...]] = (
    paths,
    headers,
    believes_a_code,
    believes_any_other_code,
    answers_not_read,
    any_answer_is_a_yes,
    effects_of_a_probe,
    probes_of_any_saga,
    pages_that_find_nothing,
    words_of_other_clients,
    requests_in_tasks,
    requests_in_a_loop,
    declared_codes,
)
