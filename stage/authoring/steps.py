"""The steps that an author declares: functions, their rules, compensations and probes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from types import NoneType
from typing import Any, Final, Generic, TypeVar, Union, get_args

import msgspec
from msgspec.structs import replace

from stage.authoring.annotations import (
    MISSING,
    declared,
    name_of,
    place_of,
    result_parameter,
    takes,
)
from stage.authoring.http import Http
from stage.authoring.payload import Codec, NotANumber, encode_json, mistake_in
from stage.authoring.saga import Saga
from stage.authoring.webhook import WebhookFunction
from stage.core.errors import AuthorDefect, DeclarationError, StageError
from stage.core.steps import Step
from stage.core.verbs import Approval
from stage.ports.store import Tx

P = TypeVar("P")
R = TypeVar("R")

TransactionFunction = Callable[[Tx, Saga[P]], Coroutine[Any, Any, R]]
CallFunction = Callable[[Http, Saga[P]], Coroutine[Any, Any, R]]
CallCompensation = Callable[[Http, Saga[P], R | None], Coroutine[Any, Any, None]]
EffectFunction = Callable[[Saga[P]], Coroutine[Any, Any, R]]
EffectCompensation = Callable[[Saga[P], R | None], Coroutine[Any, Any, None]]
ApprovalFunction = Callable[[Saga[P]], Any]
RESULT_BYTES_MAX = 16_777_216
"""The largest result of a step: the journal keeps it, and every later step has it in memory."""
SHOWN_BYTES_MAX = 16_384
"""The most that a person is shown for one approval, as JSON."""


class ResultRefused(AuthorDefect, TypeError):
    """A function returned what cannot be stored, or is not of the type that it declares."""


class ResultTooLarge(ResultRefused):
    """A function returned more than is kept of a step."""


class DeclaredStep(Generic[P, R]):
    """One step: its function, its rules, and its compensation when it has one."""

    parameters: tuple[str, ...] = ("tx", "saga")
    compensation_parameters: tuple[str, ...] = ("tx", "saga")
    coroutine = True

    def __init__(
        self,
        stage: str,
        function: Callable[..., Coroutine[Any, Any, R]],
        rules: Step,
        reason: str = "",
    ) -> None:
        self.name = rules.name
        self.stage = stage
        self.function = function
        self.rules = rules
        self.never_retry: frozenset[int | type[Exception]] = frozenset()
        """Codes and exceptions after which it is not repeated."""
        self.reason = reason.strip()
        """Why it has no compensation, in the author's words; empty where it has to have one."""
        self.compensating: Callable[..., Coroutine[Any, Any, Any]] | None = None
        check_function(stage, function, self.parameters, coroutine=self.coroutine)
        self.returns = declared(stage, function, "return")
        self.codec: Codec[Any] = self._codec()
        self.decode_result: Callable[[bytes | msgspec.Raw], R] = self.codec.from_json
        """The step's result from the journal's JSON."""

    def encode_result(self, value: Any) -> bytes:
        """The JSON of what the function returned.

        Raises ResultRefused, a TypeError, when it is no JSON or cannot be read back, and
        ResultTooLarge, which is one.
        """
        try:
            body = self.codec.to_json(value)
        except NotANumber as error:
            raise ResultRefused(f"{self._returned(value)}: {error}") from error
        except Exception as error:
            raise ResultRefused(
                f"{self._returned(value)}, which is stored as JSON and cannot be: return a value"
                " of JSON, a msgspec Struct, a dataclass or a pydantic model"
            ) from error
        if len(body) > RESULT_BYTES_MAX:
            raise ResultTooLarge(
                f"{self._returned(value)} of {len(body)} bytes as JSON, and {RESULT_BYTES_MAX} are"
                " kept of a step: return what later steps need, and the address of the rest"
            )
        try:
            back = self.codec.from_json(body)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ResultRefused(
                f"{self._returned(value)}, which is not what it declares: {mistake_in(error)}."
                " Return what it declares, or annotate what it returns"
            ) from error
        if self.returns is MISSING and type(back) is not type(value) and back != value:
            raise ResultRefused(
                f"{self._returned(value)} and declares no type, so that it would be read back as"
                f" {type(back).__name__}: annotate what it returns"
            )
        return body

    def _returned(self, value: object) -> str:
        return f"{self.place}: {self.name} returned {type(value).__name__}"

    def as_step(self) -> Step:
        """The rules of the step as the machine sees it."""
        return replace(self.rules, compensatable=self.compensating is not None)

    @property
    def place(self) -> str:
        """`payment.py:42`: where its function is declared."""
        return place_of(self.function)

    def _compensate_by(self, function: Callable[..., Coroutine[Any, Any, None]]) -> None:
        if self.compensating is not None:
            raise DeclarationError(
                f"{place_of(function)}: step {self.name!r} of stage {self.stage!r} has two"
                " compensations: keep one"
            )
        if self.reason:
            raise DeclarationError(
                f"{place_of(function)}: step {self.name!r} of stage {self.stage!r} says"
                " compensation=None and has a compensation: leave one of the two out"
            )
        check_function(self.stage, function, self.compensation_parameters)
        self.compensating = function

    def _codec(self) -> Codec[Any]:
        try:
            return Codec(Any if self.returns in (MISSING, object) else self.returns)
        except DeclarationError as error:
            raise DeclarationError(
                f"{self.place}: {self.name} of stage {self.stage!r} returns"
                f" {name_of(self.returns)}, which is stored as JSON and cannot be: {error}"
            ) from error


class TransactionStep(DeclaredStep[P, R]):
    """A local transaction: it writes to the stage's own database and nothing else."""

    def compensation(self, function: TransactionFunction[P, None]) -> TransactionFunction[P, None]:
        """Declare the function that undoes this step. Raises DeclarationError."""
        self._compensate_by(function)
        return function


class ExternalStep(DeclaredStep[P, R]):
    """A step whose effect is at an external system: the common part of calls and effects."""

    def __init__(
        self,
        stage: str,
        function: Callable[..., Coroutine[Any, Any, R]],
        rules: Step,
        reason: str = "",
    ) -> None:
        super().__init__(stage, function, rules, reason)
        self.pending_on: frozenset[int] = frozenset()
        self.probing: Callable[..., Coroutine[Any, Any, R | None]] | None = None
        self.hearing: WebhookFunction[Any] | None = None

    def as_step(self) -> Step:
        """The rules of the step as the machine sees it."""
        return replace(
            super().as_step(),
            probed=self.probing is not None,
            hooked=self.hearing is not None,
        )

    @property
    def may_return_none(self) -> bool:
        """Whether None may be its result: then a probe has nothing that it could find."""
        return None in alternatives(self.returns)

    def _compensate_with_result(self, function: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Its last parameter is the result, or None when that never became known."""
        self._compensate_by(function)
        name = result_parameter(function)
        hint = declared(self.stage, function, name)
        wanted = Any if self.returns is MISSING else self.returns
        if refused := takes(hint, wanted) or takes(hint, None):
            raise DeclarationError(
                f"{place_of(function)}: {function.__name__} of stage {self.stage!r} takes"
                f" {name}: {name_of(hint)}, and {self.name} may leave it {refused}: annotate it"
                f" {name}: {_with_none(wanted)}, which is None when the result never became known"
            )

    def _probe_by(self, function: Callable[..., Coroutine[Any, Any, R | None]]) -> None:
        where = f"{place_of(function)}: step {self.name!r} of stage {self.stage!r}"
        if self.probing is not None:
            raise DeclarationError(f"{where} has two probes: keep one")
        if self.may_return_none:
            raise DeclarationError(
                f"{where} returns {name_of(self.returns)} and has a probe, whose None says that"
                f" the API does not know the key: let the {self.rules.kind} return what was made,"
                " such as its id"
            )
        check_function(self.stage, function, self.parameters)
        found = declared(self.stage, function, "return")
        if refused := takes(_with_none_type(self.returns), found):
            raise DeclarationError(
                f"{place_of(function)}: {function.__name__} of stage {self.stage!r} finds"
                f" {refused}, and {self.name} returns {name_of(self.returns)}: a probe finds what"
                f" the {self.rules.kind} returns, -> {_with_none(self.returns)}"
            )
        self.probing = function

    def _hear_by(self, function: WebhookFunction[Any]) -> None:
        where = f"{place_of(function)}: step {self.name!r} of stage {self.stage!r}"
        if self.hearing is not None:
            raise DeclarationError(f"{where} has two webhooks: keep one")
        if inspect.iscoroutinefunction(function):
            raise DeclarationError(f"{where} has a webhook with async def: write def")
        check_function(self.stage, function, ("hook",), coroutine=False)
        self.hearing = function


class CallStep(ExternalStep[P, R]):
    """A call to an external API."""

    parameters = ("http", "saga")
    compensation_parameters = ("http", "saga", "result")

    def __init__(
        self,
        stage: str,
        function: Callable[..., Coroutine[Any, Any, R]],
        rules: Step,
        reason: str = "",
    ) -> None:
        super().__init__(stage, function, rules, reason)
        self.transient_on: frozenset[int] = frozenset()
        self.refused_on: frozenset[int] = frozenset()
        self.requests = 1
        """Requests that its function may make: each has a key of its own."""

    def compensation(self, function: CallCompensation[P, R]) -> CallCompensation[P, R]:
        """Declare the function that undoes this step. Raises DeclarationError.

        Its third parameter is the result, or None when that never became known.
        """
        self._compensate_with_result(function)
        return function


class ResultCallStep(CallStep[P, R]):
    """A call that returns something, which a probe can find."""

    def probe(self, function: CallFunction[P, R | None]) -> CallFunction[P, R | None]:
        """Declare the function that finds the result of an in-doubt call by `saga.key`.

        It returns the result, or None when the API does not know the key. Raises DeclarationError.
        """
        self._probe_by(function)
        return function

    def webhook(self, function: WebhookFunction[R]) -> WebhookFunction[R]:
        """Declare the function that reads a webhook of the call's API: `def ended(hook)`.

        It verifies the webhook, and returns `Landed` or `Declined`, or None for one that does not
        concern this call. It must be a plain function that does no I/O. Raises DeclarationError.
        """
        self._hear_by(function)
        return function


class EffectStep(ExternalStep[P, R]):
    """An effect by any code of the author: a vendor's SDK, gRPC, a queue."""

    parameters = ("saga",)
    compensation_parameters = ("saga", "result")

    def compensation(self, function: EffectCompensation[P, R]) -> EffectCompensation[P, R]:
        """Declare the function that undoes this step. Raises DeclarationError.

        Its second parameter is the result, or None when that never became known.
        """
        self._compensate_with_result(function)
        return function


class ResultEffectStep(EffectStep[P, R]):
    """An effect that returns something, which a probe can find."""

    def probe(self, function: EffectFunction[P, R | None]) -> EffectFunction[P, R | None]:
        """Declare the function that finds the result of an in-doubt effect by `saga.key`.

        It returns the result, or None when the system does not know the key. Raises
        DeclarationError.
        """
        self._probe_by(function)
        return function

    def webhook(self, function: WebhookFunction[R]) -> WebhookFunction[R]:
        """Declare the function that reads a webhook of its system, as for a call."""
        self._hear_by(function)
        return function


class ApprovalStep(DeclaredStep[P, Approval | None]):
    """A step that waits for a person. Its function says what that person is shown."""

    parameters = ("saga",)
    coroutine = False

    def shown(self, saga: Saga[P]) -> bytes | None:
        """The words for a person, as JSON; None where nobody has to be asked.

        Raises StageError for more than SHOWN_BYTES_MAX of them, and what the function raises.
        """
        value: Any = self.function(saga)
        if value is None:
            return None
        dumped = getattr(value, "model_dump_json", None)  # of a pydantic model
        body: bytes = encode_json(value) if dumped is None else dumped().encode()
        if len(body) > SHOWN_BYTES_MAX:
            raise StageError(
                f"{self.place}: {self.name} shows {len(body)} bytes, and at most"
                f" {SHOWN_BYTES_MAX}: show what a person needs to decide"
            )
        return body

    def _codec(self) -> Codec[Any]:
        return Codec(Approval | None)


def check_function(
    stage: str, function: Callable[..., Any], parameters: tuple[str, ...], *, coroutine: bool = True
) -> None:
    """Raise DeclarationError unless the function takes those parameters, by position."""
    name = getattr(function, "__name__", repr(function))
    where = f"{place_of(function)}: {name}" if place_of(function) else name
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise DeclarationError(
            f"{where} of stage {stage!r} has a yield, so that calling it runs nothing: let it"
            " return its result"
        )
    if coroutine and not inspect.iscoroutinefunction(function):
        raise DeclarationError(f"{where} of stage {stage!r} must be declared with async def")
    signature, wanted = inspect.signature(function), ", ".join(parameters)
    try:
        signature.bind(*parameters)
    except TypeError:
        raise DeclarationError(
            f"{where} of stage {stage!r} must take ({wanted}), by position"
        ) from None
    for given, parameter in zip(parameters, signature.parameters.values(), strict=False):
        if (meant := _meant(parameter)) and meant != given:
            raise DeclarationError(
                f"{where} of stage {stage!r} is given ({wanted}), by position, and takes {meant}"
                f" where it gets {given}: name them in this order"
            )


_GIVEN: Final = {"Http": "http", "Saga": "saga", "Tx": "tx"}
"""The types that a function is given, and the usual names of their parameters."""


def _meant(parameter: inspect.Parameter) -> str:
    """`tx`, `http` or `saga`, as a parameter is annotated or else named; empty for another."""
    hint = parameter.annotation
    if hint is not inspect.Parameter.empty:
        text = hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
        return _GIVEN.get(text.partition("[")[0].rpartition(".")[2], "")
    return parameter.name if parameter.name in _GIVEN.values() else ""


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, None for NoneType; the type itself otherwise."""
    return tuple(None if each is NoneType else each for each in (get_args(hint) or (hint,)))


def _with_none_type(hint: Any) -> Any:
    return Any if hint in (MISSING, Any, object) else Union[hint, None]  # noqa: UP007 - of any hint


def _with_none(hint: Any) -> str:
    if hint in (MISSING, Any):
        return "Any"
    return "None" if hint in (None, NoneType) else f"{name_of(hint)} | None"
