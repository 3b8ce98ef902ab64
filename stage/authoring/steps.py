"""The steps that an author declares: functions, their rules, compensations and probes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, get_type_hints

import msgspec
from msgspec.structs import replace

from stage.authoring.payload import Codec
from stage.core.errors import DeclarationError
from stage.core.steps import Step

R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


class DeclaredStep(Generic[R]):
    """One step: its function, its rules, and its compensation when it has one."""

    parameters: tuple[str, ...] = ("tx", "saga")
    compensation_parameters: tuple[str, ...] = ("tx", "saga")

    def __init__(self, stage: str, function: Callable[..., Awaitable[R]], rules: Step) -> None:
        self.name = rules.name
        self.stage = stage
        self.function = function
        self.rules = rules
        self.compensating: Callable[..., Awaitable[Any]] | None = None
        check_function(stage, function, self.parameters)
        self.codec: Codec[Any] = Codec(_returned(function))

    def decode_result(self, body: bytes) -> R:
        """The step's result from the journal's JSON."""
        value: R = self.codec.from_json(body)
        return value

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what the function returned. Raises TypeError when it cannot be read back."""
        body = self.codec.to_json(value)
        try:
            self.codec.from_json(body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise TypeError(
                f"{self.name} returned {type(value).__name__}, which is not what it declares:"
                f" {error}"
            ) from error
        return body

    def compensation(self, function: F) -> F:
        """Declare the function that undoes this step. Raises DeclarationError."""
        if self.compensating is not None:
            raise DeclarationError(
                f"step {self.name!r} of stage {self.stage!r} has two compensations: keep one"
            )
        check_function(self.stage, function, self.compensation_parameters)
        self.compensating = function
        return function

    def as_step(self) -> Step:
        """The rules of the step as the machine sees it."""
        return replace(self.rules, compensatable=self.compensating is not None)


class TransactionStep(DeclaredStep[R]):
    """A local transaction: it writes to the stage's own database and nothing else."""


class CallStep(DeclaredStep[R]):
    """A call to an external API."""

    parameters = ("http", "saga")
    compensation_parameters = ("http", "saga", "result")

    def __init__(
        self,
        stage: str,
        function: Callable[..., Awaitable[R]],
        rules: Step,
        *,
        transient_on: frozenset[int],
        refused_on: frozenset[int],
    ) -> None:
        super().__init__(stage, function, rules)
        self.transient_on = transient_on
        self.refused_on = refused_on
        self.probing: Callable[..., Awaitable[R | None]] | None = None

    def probe(self, function: F) -> F:
        """Declare the function that finds the result of an in-doubt call by `saga.key`.

        It returns the result, or None when the API does not know the key.
        """
        if self.probing is not None:
            raise DeclarationError(
                f"step {self.name!r} of stage {self.stage!r} has two probes: keep one"
            )
        check_function(self.stage, function, ("http", "saga"))
        self.probing = function
        return function

    def as_step(self) -> Step:
        """The rules of the step as the machine sees it."""
        return replace(super().as_step(), probed=self.probing is not None)


def check_function(
    stage: str, function: Callable[..., Any], parameters: tuple[str, ...], *, coroutine: bool = True
) -> None:
    """Raise DeclarationError unless the function takes those parameters, by position."""
    name = getattr(function, "__name__", repr(function))
    if coroutine and not inspect.iscoroutinefunction(function):
        raise DeclarationError(f"{name} of stage {stage!r} must be declared with async def")
    try:
        inspect.signature(function).bind(*parameters)
    except TypeError:
        wanted = ", ".join(parameters)
        raise DeclarationError(
            f"{name} of stage {stage!r} must take ({wanted}), by position"
        ) from None


def _returned(function: Callable[..., Any]) -> Any:
    """The annotated return type, or Any where there is none that can be read."""
    try:
        return get_type_hints(function).get("return", Any)
    except NameError:
        return Any
