"""One function of a step as a rule sees it, and the slip that a rule finds."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from stage.authoring.declaration import StageDeclaration
from stage.authoring.source import Source
from stage.authoring.steps import CallStep, DeclaredStep, EffectStep, TransactionStep
from stage.core.commands import AttemptKind


class Slip(NamedTuple):
    """One slip: whether it is certain, and its place, what it costs and the fix in words."""

    certain: bool
    text: str


class StepFunction(NamedTuple):
    """One function of a step, with its source."""

    stage: StageDeclaration[Any, Any]
    step: DeclaredStep[Any, Any]
    kind: AttemptKind
    """EXECUTE, PROBE or COMPENSATE: which of its functions."""
    source: Source
    passed_as: str | None = None
    """The name of the saga in a function to which it passes `http` or `tx` on; None in itself."""
    is_given_saga: bool = True
    """Whether that name is certain: the saga itself is passed under it."""

    @property
    def is_transaction(self) -> bool:
        """Whether it is given a `tx`."""
        return isinstance(self.step, TransactionStep)

    @property
    def is_call(self) -> bool:
        """Whether it is given an `http`."""
        return isinstance(self.step, CallStep)

    @property
    def is_effect(self) -> bool:
        """Whether it is any code of the author's."""
        return isinstance(self.step, EffectStep)

    @property
    def compensates(self) -> bool:
        """Whether it is the compensation."""
        return self.kind is AttemptKind.COMPENSATE

    @property
    def saga(self) -> str:
        """The name of the parameter that holds the saga; empty where it has none."""
        if self.passed_as is not None:
            return self.passed_as
        at = 0 if self.is_effect else 1
        return self.source.parameters[at] if len(self.source.parameters) > at else ""

    def with_passed_on(self) -> Iterator[StepFunction]:
        """Itself, and the author's functions to which it passes its `http` or `tx` on."""
        seen, waiting = {self.source.code}, [self]
        while waiting:
            function = waiting.pop(0)
            yield function
            for call in () if self.is_effect else function.source.all_calls():
                names = [each.id if isinstance(each, ast.Name) else "" for each in call.args]
                if not names or names[:1] != list(function.source.parameters[:1]):
                    continue
                source = function.source.beside(call)
                if source is None or source.code in seen:
                    continue
                seen.add(source.code)
                named = dict(zip(names, source.parameters, strict=False))
                named |= {
                    each.value.id: each.arg
                    for each in call.keywords
                    if isinstance(each.value, ast.Name) and each.arg
                }
                own = function.saga or "saga"
                known = function.is_given_saga and own in named and _as_written(call, function)
                waiting.append(
                    function._replace(
                        source=source, passed_as=named.get(own, "saga"), is_given_saga=known
                    )
                )

    def certain(self, node: ast.expr | ast.stmt | ast.excepthandler, text: str) -> Slip:
        """A slip that costs something at every run."""
        return Slip(True, f"{self.source.place(node)}: {text}")

    def warning(self, node: ast.expr | ast.stmt | ast.excepthandler, text: str) -> Slip:
        """A slip that an author may have meant."""
        return Slip(False, f"{self.source.place(node)}: {text}")

    def answers(self) -> dict[str, ast.Call]:
        """The names that hold the answer of a request, with the request."""
        named = ((self.source.named(call), call) for call in self.source.requests())
        return {name: call for name, call in named if name}

    def of_saga(self, node: ast.AST, *members: str) -> bool:
        """Whether `saga.input`, or another of these members, stands within that node."""
        return any(
            isinstance(each, ast.Attribute)
            and isinstance(each.value, ast.Name)
            and each.value.id == self.saga
            and each.attr in members
            for each in ast.walk(node)
        )


def _as_written(call: ast.Call, function: StepFunction) -> bool:
    """Whether a function gets its arguments as they stand there: no `*rest`, no decorator."""
    starred = any(isinstance(each, ast.Starred) for each in call.args)
    return not starred and not hasattr(function.source.called(call), "__wrapped__")


Rule = Callable[[StepFunction], Iterator[Slip]]
_LOGS: Final = frozenset({"critical", "debug", "error", "exception", "info", "warning"})


def arguments(call: ast.Call) -> tuple[ast.expr, ...]:
    """All that a call is given."""
    return (*call.args, *(each.value for each in call.keywords))


def shown(node: ast.AST) -> str:
    """An expression as it is written, on one line."""
    return " ".join(ast.unparse(node).split())[:80]


def is_log(function: StepFunction, call: ast.Call) -> bool:
    """Whether it writes a log line, as far as its name tells."""
    if function.source.full_name(call) == "builtins.print":
        return True
    match call.func:
        case ast.Attribute(value=ast.Name(id=name), attr=attr):
            return attr in _LOGS and name not in function.source.parameters
    return False
