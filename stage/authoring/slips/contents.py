"""The contents of a saga that are kept and shown: inexact money, and secrets that stay."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from stage.authoring.declaration import StageDeclaration
from stage.authoring.payload import Codec
from stage.authoring.slips.outcomes import RAISED
from stage.authoring.slips.step_function import Rule, Slip, StepFunction, arguments, is_log, shown

_MONEY: Final = re.compile(
    r"(?:^|_)(?:amount|balance|charge|cost|deposit|fee|price|refund|sum|tax|total)s?(?:$|_)", re.I
)
_SECRET: Final = re.compile(
    r"(?:^|_)(?:access_token|api_key|card|card_number|cvc|cvv|iban|pan|passwd|password|pin"
    r"|private_key|secret)s?(?:$|_)",
    re.I,
)


def contents_of(stage: StageDeclaration[Any, Any]) -> Iterator[Slip]:
    """The types of a stage, and what of them it indexes and shows."""
    kinds: list[tuple[str, Codec[Any]]] = [("accepts=", stage.accepts)]
    if stage.adds is not None:
        kinds.append(("adds=", stage.adds))
    kinds += [(f"the result of {step.name}", step.codec) for step in stage.steps]
    for where, codec in kinds:
        for member in _floats(codec):
            yield Slip(
                False,
                f"{where} of stage {stage.name!r} has a float {member!r}, and 0.1 + 0.2 is not 0.3:"
                " give money as a whole number of its smallest unit",
            )
        if where != "accepts=":
            for member in filter(_SECRET.search, codec.members()):
                yield Slip(
                    False,
                    f"{where} of stage {stage.name!r} holds {member!r}, which then lies in the"
                    " journal and its backups: leave it out, and ask for it where it is needed",
                )
    for word, paths in (("indexed", stage.indexed or {}), ("shows", stage.shows)):
        for name, path in paths.items():
            if _SECRET.search(path.rpartition(".")[2]):
                yield Slip(
                    False,
                    f"{word}= of stage {stage.name!r} names {path!r} as {name!r}, which every"
                    " operator may then search or see: name a number that is no secret",
                )


def _floats(codec: Codec[Any]) -> Iterator[str]:
    """The members of a type that are named like money and are floats."""
    schema = codec.schema()
    for kind in (schema, *schema.get("$defs", {}).values()):
        for member, its in kind.get("properties", {}).items():
            kinds = [its, *its.get("anyOf", ())]
            if _MONEY.search(member) and any(each.get("type") == "number" for each in kinds):
                yield member


def words_that_stay(function: StepFunction) -> Iterator[Slip]:
    """A payload, an answer or a secret in the words of an outcome, or in a log line."""
    for call in function.source.all_calls():
        quoted = next((found for part in arguments(call) if (found := _quotes(function, part))), "")
        if not quoted:
            continue
        if function.source.makes(call, *RAISED):
            if function.stage.redact is None:
                yield function.warning(
                    call,
                    f"{quoted} stands in the words of {shown(call.func)}, which are kept in the"
                    " journal, in log lines and in views: leave it out, or give the stage redact=",
                )
        elif is_log(function, call):
            yield function.warning(
                call,
                f"{quoted} stands in a log line, which is in the clear: name {function.saga}.id",
            )


def _quotes(function: StepFunction, part: ast.expr) -> str:
    """The payload, the answer or the secret that a text holds; empty without one."""
    answers = function.answers()
    for node in ast.walk(part):
        around = function.source.parent(node)
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attr):
                whole = not isinstance(around, ast.Attribute | ast.Subscript)
                if name == function.saga and attr in ("data", "input") and whole:
                    return shown(node)
                quoted = attr in ("body", "text") or (attr == "json" and _all(function, node))
                if name in answers and quoted:
                    return shown(node)
            case ast.Attribute(attr=attr) if _SECRET.search(attr):
                if function.of_saga(node, "input"):
                    return shown(node)
    return ""


def _all(function: StepFunction, node: ast.AST) -> bool:
    """Whether the whole body stands there, and not a member of it."""
    call = function.source.parent(node)
    return call is not None and not isinstance(
        function.source.parent(call), ast.Attribute | ast.Subscript
    )


def secrets_of_the_process(function: StepFunction) -> Iterator[Slip]:
    """A variable of the environment in a request, whose body is journaled."""
    if not function.is_call:
        return
    for call in function.source.requests():
        for node in (each for part in arguments(call) for each in ast.walk(part)):
            name = function.source.full_name(node) if isinstance(node, ast.Attribute) else ""
            if name in ("os.environ", "os.getenv"):
                yield function.warning(
                    call,
                    f"{shown(node)} stands in a request, which lies in the journal: let the"
                    " operator add credentials, bearer_file in"
                    f" [externals.{function.step.rules.peer}], or write"
                    f" @{function.stage.name}.credentials",
                )


def inexact_money(function: StepFunction) -> Iterator[Slip]:
    """`saga.input.amount / 100`: a whole number of cents that becomes a float."""
    for node, parts in _made_floats(function):
        if any(map(partial(_is_whole_money, function), parts)):
            yield function.warning(
                node,
                f"{shown(node)} makes a float of a whole number of money, and 0.1 + 0.2 is not 0.3:"
                " reckon in the smallest unit with // and whole factors, or with decimal.Decimal",
            )


def _made_floats(function: StepFunction) -> Iterator[tuple[ast.expr, tuple[ast.expr, ...]]]:
    """Each expression whose value is a float, with what it is made of."""
    for node in ast.walk(function.source.tree):
        match node:
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                yield node, (left, right)
            case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=float())):
                yield node, (left,)
            case ast.BinOp(left=ast.Constant(value=float()), op=ast.Mult(), right=right):
                yield node, (right,)
            case ast.Call(args=[given]) if function.source.full_name(node) == "builtins.float":
                yield node, (given,)


def _is_whole_money(function: StepFunction, node: ast.AST) -> bool:
    """Whether it is a member of the input that is named like money, and a whole number."""
    members = function.stage.accepts.schema()
    for part in function.source.origins(node) if isinstance(node, ast.Name) else (node,):
        match part:
            case ast.Attribute(value=within, attr=member):
                pass
            case ast.Subscript(value=within, slice=ast.Constant(value=str(member))):
                pass
            case _:
                continue
        if _MONEY.search(member) and function.of_saga(within, "data", "input"):
            return member in _whole_numbers(members)
    return False


def _whole_numbers(schema: dict[str, Any]) -> set[str]:
    return {
        member
        for kind in (schema, *schema.get("$defs", {}).values())
        for member, its in kind.get("properties", {}).items()
        if any(each.get("type") == "integer" for each in (its, *its.get("anyOf", ())))
    }


CONTENTS: Final[tuple[Rule, ...]] = (
    words_that_stay,
    secrets_of_the_process,
    inexact_money,
)
