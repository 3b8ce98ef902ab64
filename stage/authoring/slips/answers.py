"""Requests and answers of a call: what is sent where, and which answers are believed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any, Final

from stage.authoring.slips.step_function import Rule, Slip, StepFunction, shown
from stage.authoring.steps import CallStep
from stage.core.commands import AttemptKind
from stage.ports.credentials import CREDENTIAL_HEADERS, ENGINE_HEADERS

_OWN_NO: Final = 402
"""The one code that no gateway gives."""
_MAY_HAVE_ACTED: Final = frozenset({408, 425, 500, 502, 504})
_BODY: Final = frozenset({"body", "json", "text"})
_SAFE: Final = "get"
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
        codes = _codes(branch.test, answers)
        if codes is None or (codes == {_OWN_NO} and function.kind is not AttemptKind.PROBE):
            continue
        if any(_is_a_no(function, each) for each in branch.body):
            yield function.warning(branch, _believed(function, shown(branch.test)))
    for choice in function.source.of(ast.Match):
        if not _is_status(choice.subject, answers):
            continue
        for case in choice.cases:
            codes = {
                each.value.value
                for each in ast.walk(case.pattern)
                if isinstance(each, ast.MatchValue) and isinstance(each.value, ast.Constant)
            }
            if codes - {_OWN_NO} and any(_is_a_no(function, each) for each in case.body):
                yield function.warning(case.body[0], _believed(function, f"case {sorted(codes)}"))


def _believed(function: StepFunction, test: str) -> str:
    cost = {
        AttemptKind.EXECUTE: "the effect may stand, and would not be compensated",
        AttemptKind.PROBE: "the effect may stand, and would be made again",
        AttemptKind.COMPENSATE: "the effect may stand in a saga that is called compensated",
    }[function.kind]
    return f"{test} believes a code alone, which a gateway gives too; {cost}: {_LOOK}"


def _codes(test: ast.expr, answers: set[str]) -> set[Any] | None:
    """The codes that a test asks for, -1 for a range; None where it asks for anything else."""
    codes: set[Any] = set()
    for name in (each for each in ast.walk(test) if isinstance(each, ast.Name)):
        if name.id not in answers:
            return None
    for node in ast.walk(test):
        if isinstance(node, ast.Call) or (
            isinstance(node, ast.Attribute) and not _is_status(node, answers)
        ):
            return None
        if isinstance(node, ast.Compare):
            given = [each for part in node.comparators for each in ast.walk(part)]
            equal = all(isinstance(op, ast.Eq | ast.In) for op in node.ops)
            found = {each.value for each in given if isinstance(each, ast.Constant)}
            codes |= found if equal else {-1}
    return codes or None


def _is_status(node: ast.expr, answers: set[str]) -> bool:
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr="status"):
            return name in answers
    return False


def _is_a_no(function: StepFunction, statement: ast.stmt) -> bool:
    """Whether it ends the function with "nothing is there", or "nothing happened"."""
    match statement:
        case ast.Raise(exc=raised) if raised is not None:
            return function.source.full_name(raised).endswith(".Refused")
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
    if not function.is_call or function.kind is not AttemptKind.PROBE:
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
    answers_not_read,
    effects_of_a_probe,
    probes_of_any_saga,
    requests_in_a_loop,
    declared_codes,
)
