"""`Stage`: what an author declares, and how the engine reaches the author's functions."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import msgspec

from stage.authoring.conversation import FunctionConversation
from stage.authoring.http import Http
from stage.authoring.outcomes import Refused, Transient
from stage.authoring.payload import Codec
from stage.authoring.saga import Saga
from stage.authoring.steps import CallStep, DeclaredStep, TransactionStep, check_function
from stage.core.commands import Activity
from stage.core.errors import DeclarationError
from stage.core.outcome import FailureKind
from stage.core.retry import COMPENSATION, EXECUTION, SETTLEMENT, RetryPolicy
from stage.core.steps import Plan, Step, StepKind, plan_of
from stage.ports.stage import Conversation, Failed, RunView
from stage.ports.store import Tx
from stage.wire.problem import WireError

P = TypeVar("P")
A = TypeVar("A")
R = TypeVar("R")
D = TypeVar("D", bound=DeclaredStep[Any])

TransactionFunction = Callable[[Tx, Saga[P]], Awaitable[R]]
CallFunction = Callable[[Http, Saga[P]], Awaitable[R]]


class Stage(Generic[P, A]):
    """One stage of a chain: declare its steps in the order in which they run.

    `accepts` is the payload type, decoded from the context's data; `adds` the type that the
    `output` function returns, added to the data under the stage's name. `migrations` is a folder
    of SQL files beside the declaring module.
    """

    def __init__(
        self,
        name: str,
        *,
        accepts: type[P],
        adds: type[A] | None = None,
        migrations: str | Path | None = None,
    ) -> None:
        plan_of(name, ())  # refuses a bad name here, where its line is
        self.name = name
        self.accepts: Codec[P] = Codec(accepts)
        self.adds: Codec[A] | None = Codec(adds) if adds is not None else None
        self.migrations = _beside_caller(migrations)
        self.steps: list[DeclaredStep[Any]] = []
        self._output: Callable[[Saga[P]], A] | None = None

    @overload
    def transaction(self, function: TransactionFunction[P, R], /) -> TransactionStep[R]: ...
    @overload
    def transaction(
        self, function: None = None, /, *, attempts_max: int = 4
    ) -> Callable[[TransactionFunction[P, R]], TransactionStep[R]]: ...

    def transaction(
        self, function: Callable[..., Any] | None = None, /, *, attempts_max: int = 4
    ) -> Any:
        """Declare a local transaction `async def step(tx, saga)`.

        It may await `tx` and nothing else. It succeeds when it returns, is refused when it raises
        Refused, and is rolled back and tried again, at most `attempts_max` times, when it raises
        anything else.
        """

        def declare(function: Callable[..., Any]) -> TransactionStep[Any]:
            rules = Step(
                name=_name_of(function),
                kind=StepKind.TRANSACTION,
                execution=_policy(EXECUTION, attempts_max),
                compensation=COMPENSATION,
            )
            return self._add(TransactionStep(self.name, function, rules))

        return declare if function is None else declare(function)

    def call(
        self,
        *,
        to: str,
        timeout: float = 10.0,
        together: str = "",
        pivot: bool = False,
        idempotent: bool = True,
        attempts_max: int = 4,
        compensation_attempts_max: int = 20,
        transient_on: set[int] | frozenset[int] = frozenset(),
        refused_on: set[int] | frozenset[int] = frozenset(),
    ) -> Callable[[CallFunction[P, R]], CallStep[R]]:
        """Declare a call `async def step(http, saga)` to the external API configured as `to`.

        `timeout` is in seconds, for one attempt. Consecutive calls with the same `together` run at
        the same time. After a `pivot` the stage only goes forward. `idempotent=False` says that
        the API ignores idempotency keys, so that a call in doubt is never repeated. A code in
        `transient_on` means that nothing happened, one in `refused_on` is a business no.
        """
        if not to or timeout <= 0:
            raise DeclarationError(
                f"a call of stage {self.name!r} needs to='name of the API' and timeout > 0 seconds"
            )

        def declare(function: CallFunction[P, R]) -> CallStep[R]:
            rules = Step(
                name=_name_of(function),
                kind=StepKind.CALL,
                peer=to,
                group=together,
                pivot=pivot,
                idempotent=idempotent,
                timeout_seconds=timeout,
                execution=_policy(EXECUTION, attempts_max),
                settlement=SETTLEMENT,
                compensation=_policy(COMPENSATION, compensation_attempts_max),
            )
            step = CallStep(
                self.name,
                function,
                rules,
                transient_on=frozenset(transient_on),
                refused_on=frozenset(refused_on),
            )
            return self._add(step)

        return declare

    def output(self, function: Callable[[Saga[P]], A]) -> Callable[[Saga[P]], A]:
        """Declare what is added to the context for the stages after this one.

        The function must be pure: it is called before handing on and again for the answer, and
        the same saga must give the same value.
        """
        if self._output is not None:
            raise DeclarationError(f"stage {self.name!r} has two outputs: keep one")
        if inspect.iscoroutinefunction(function):
            raise DeclarationError(
                f"the output of stage {self.name!r} must be a plain function: def, not async def"
            )
        check_function(self.name, function, ("saga",), coroutine=False)
        self._output = function
        return function

    async def app(self, *, tracer_provider: Any = None, meter_provider: Any = None) -> Any:
        """The aiohttp application, configured from the environment.

        Spans are made by the OpenTelemetry `tracer_provider` and metrics by the `meter_provider`,
        else by those of the process.

        A factory: with `app = payment.app` in the module, gunicorn takes `module:app` and
        `web.run_app` takes `app()`; `add_subapp` takes what awaiting it gives.
        """
        # The one door upward, taken when called and never at import.
        __import__("stage.bootstrap")
        return sys.modules["stage.bootstrap"].application_from_environment(
            self, tracer_provider=tracer_provider, meter_provider=meter_provider
        )

    def asgi(self, *, tracer_provider: Any = None, meter_provider: Any = None) -> Any:
        """The ASGI application: `app = payment.asgi()` for uvicorn, or to mount in FastAPI.

        The environment is read and the database opened when its lifespan begins. Where it is
        mounted, the outer application has to run its `lifespan`.
        """
        __import__("stage.bootstrap")  # as in `app`
        return sys.modules["stage.bootstrap"].asgi_from_environment(
            self, tracer_provider=tracer_provider, meter_provider=meter_provider
        )

    def bind(
        self, downstreams: tuple[str, ...] = (), *, adjust: Callable[[Step], Step] | None = None
    ) -> BoundStage[P, A]:
        """The stage with its neighbours, checked. Raises DeclarationError with the fix.

        `adjust` changes the rules of each step, forwards included, as the operator configured.
        """
        if self.adds is not None and self._output is None:
            raise DeclarationError(
                f"stage {self.name!r} says adds= but declares no output:"
                f" write a function under @{self.name}.output"
            )
        plan = plan_of(self.name, tuple(step.as_step() for step in self.steps), downstreams)
        if adjust is not None:
            plan = msgspec.structs.replace(plan, steps=tuple(adjust(step) for step in plan.steps))
        return BoundStage(self, plan, self._output)

    def _add(self, step: D) -> D:
        self.steps.append(step)
        return step


class BoundStage(Generic[P, A]):
    """A stage and its plan: the engine's `Participant`."""

    def __init__(
        self, stage: Stage[P, A], plan: Plan, output: Callable[[Saga[P]], A] | None
    ) -> None:
        self._stage = stage
        self._plan = plan
        self._output = output
        self._steps = {step.name: step for step in stage.steps}

    @property
    def plan(self) -> Plan:
        """The steps, forwards included."""
        return self._plan

    def check(self, data: Mapping[str, Any]) -> None:
        """See `ports.stage.Participant`."""
        self._stage.accepts.from_data(data)

    def check_result(self, step: str, result: msgspec.Raw) -> None:
        """See `ports.stage.Participant`."""
        declared = self._steps.get(step)
        if declared is None:
            return  # a forward: what downstream added is not ours to judge
        try:
            declared.decode_result(bytes(result))
        except (msgspec.MsgspecError, ValueError) as error:
            raise WireError(
                422,
                "Result not accepted",
                f"result of {step}: {error}",
                hint="give the result as the step's function would have returned it",
            ) from error

    async def run_transaction(
        self, tx: Tx, activity: Activity, step: str, view: RunView
    ) -> msgspec.Raw:
        """See `ports.stage.Participant`."""
        declared = self._steps[step]
        saga = Saga(view, self._stage.accepts)
        if activity is Activity.COMPENSATE:
            assert declared.compensating is not None  # the machine asks only where there is one
            await declared.compensating(tx, saga)
            return msgspec.Raw(b"null")
        return msgspec.Raw(declared.encode_result(await declared.function(tx, saga)))

    def explain(self, error: Exception) -> Failed:
        """See `ports.stage.Participant`."""
        reason = str(error) or type(error).__name__
        match error:
            case Refused():
                return Failed(kind=FailureKind.REFUSED, reason=reason)
            case Transient():
                return Failed(
                    kind=FailureKind.TRANSIENT, reason=reason, retry_after=error.retry_after
                )
            case _:
                return Failed(
                    kind=FailureKind.TRANSIENT, reason=f"{type(error).__name__}: {reason}"
                )

    def converse(self, activity: Activity, step: str, view: RunView) -> Conversation:
        """See `ports.stage.Participant`."""
        declared = self._steps[step]
        assert isinstance(declared, CallStep)
        http, saga = Http(), Saga(view, self._stage.accepts)
        encode: Callable[[Any], bytes] = declared.encode_result
        if activity is Activity.EXECUTE:
            coroutine = declared.function(http, saga)
        elif activity is Activity.PROBE:
            assert declared.probing is not None
            coroutine = declared.probing(http, saga)
            encode = _encode_found(declared)
        else:
            assert declared.compensating is not None
            body = view.results.get(step)
            result = None if body is None else declared.decode_result(bytes(body))
            coroutine = declared.compensating(http, saga, result)
            encode = _encode_nothing
        return FunctionConversation(
            coroutine,  # type: ignore[arg-type]  # check_function saw async def
            encode,
            transient_on=declared.transient_on,
            refused_on=declared.refused_on,
        )

    def output(self, view: RunView) -> msgspec.Raw | None:
        """See `ports.stage.Participant`."""
        if self._output is None:
            return None
        value = self._output(Saga(view, self._stage.accepts))
        codec = self._stage.adds
        return msgspec.Raw(msgspec.json.encode(value) if codec is None else codec.to_json(value))


def _encode_found(step: CallStep[Any]) -> Callable[[Any], bytes]:
    return lambda value: b"null" if value is None else step.encode_result(value)


def _encode_nothing(_value: Any) -> bytes:
    return b"null"


def _policy(default: RetryPolicy, attempts_max: int) -> RetryPolicy:
    if attempts_max < 1:
        raise DeclarationError("attempts_max counts the first attempt: give at least 1")
    return msgspec.structs.replace(default, attempts_max=attempts_max)


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "")


def _beside_caller(folder: str | Path | None) -> Path | None:
    """A relative folder is beside the module that declares the stage, not where we were started."""
    if folder is None or Path(folder).is_absolute():
        return None if folder is None else Path(folder)
    where = sys._getframe(2).f_globals.get("__file__")
    return (Path(where).parent if where else Path.cwd()) / folder
