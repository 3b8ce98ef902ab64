"""A stage as its author declares it: its steps in their order, its payload and its output."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Never, Protocol, TypeVar, overload

import msgspec

from stage.authoring.annotations import declaring_place, name_of, not_added, place_of
from stage.authoring.checks import (
    check_codes,
    check_compensations,
    check_external,
    check_payload,
    check_seconds,
    check_uncompensated,
)
from stage.authoring.lineage import Lineage
from stage.authoring.participant import Adds, StageParticipant
from stage.authoring.payload import Codec
from stage.authoring.saga import Saga
from stage.authoring.steps import (
    ApprovalFunction,
    ApprovalStep,
    CallFunction,
    CallStep,
    DeclaredStep,
    EffectFunction,
    EffectStep,
    ResultCallStep,
    ResultEffectStep,
    TransactionFunction,
    TransactionStep,
    check_function,
)
from stage.core.errors import DeclarationError
from stage.core.retry import (
    COMPENSATION,
    EXECUTION,
    PATIENCE_SECONDS,
    PENDING_SECONDS_MAX,
    SETTLEMENT,
    RetryPolicy,
)
from stage.core.steps import Step, StepKind, adjusted, plan_of
from stage.ports.credentials import CredentialsFunction
from stage.wire.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault  # of Python 3.13

    A = TypeVarWithDefault("A", default=None)
else:
    A = TypeVar("A")
P = TypeVar("P")
R = TypeVar("R")
D = TypeVar("D", bound=DeclaredStep[Any, Any])


MIGRATIONS = "migrations"
"""The usual name of the folder of an author's migrations."""


class CallDecorator(Protocol[P]):
    """Takes the function of a call. Without a result there is nothing for a probe to find."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a step without a result lacks `probe`
        self, function: CallFunction[P, None], /
    ) -> CallStep[P, None]: ...
    @overload
    def __call__(self, function: CallFunction[P, R], /) -> ResultCallStep[P, R]: ...


class EffectDecorator(Protocol[P]):
    """Takes the function of an effect. Without a result there is nothing for a probe to find."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a step without a result lacks `probe`
        self, function: EffectFunction[P, None], /
    ) -> EffectStep[P, None]: ...
    @overload
    def __call__(self, function: EffectFunction[P, R], /) -> ResultEffectStep[P, R]: ...


class StageDeclaration(Generic[P, A]):
    """One stage of a chain: declare its steps in the order in which they run.

    A wrong declaration raises DeclarationError with the fix, where it stands.

    `accepts` is the payload type, decoded from the context's data; `adds` the type that the
    `output` function returns, added to the data under the stage's name. `migrations` is a folder
    of SQL files beside the declaring module.

    A saga keeps the `version` that accepted it. `supersedes` is the stage as it was declared before
    with a lower one: its sagas go on under it, and new ones run here. Within one version,
    `renamed={"wire": "transfer"}` says that a step only has another name now, and
    `peers_renamed={"psp": "psp2"}` the same of an external API or a downstream (rule 32).

    `redact` is a function from the words of others (an external API's, a neighbour's, those of
    `Refused`) to what may be kept of them: they are stored, logged and shown as reasons.

    `indexed={"order": "order_id"}` lets an operator find a saga by a business number: by its name
    the path of a member of the payload, `customer.number` for one within another. The number lies
    in an index of its own, outside of the encrypted contents, for as long as the payload does.

    `shows={"amount": "amount"}` lets operators see these members of the payload beside a saga, by
    paths of the same form. They are read from the payload, through `redact`, and kept nowhere else.
    """

    # Many because each parameter is a word of the author's.
    def __init__(
        self,
        name: str,
        *,
        accepts: type[P],
        adds: type[A] | None = None,
        migrations: str | Path | None = None,
        version: int = 1,
        supersedes: StageDeclaration[Any, Any] | None = None,
        renamed: Mapping[str, str] | None = None,
        peers_renamed: Mapping[str, str] | None = None,
        redact: Callable[[str], str] | None = None,
        indexed: Mapping[str, str] | None = None,
        shows: Mapping[str, str] | None = None,
    ) -> None:
        plan_of(name, ())  # refuses a bad name here, where its line is
        self.name = name
        self.lineage: Lineage = Lineage(
            name=name,
            version=version,
            supersedes=None if supersedes is None else supersedes.lineage,
            renamed=dict(renamed or {}),
            peers_renamed=dict(peers_renamed or {}),
        )
        self.supersedes = supersedes
        self.redact = redact
        self.indexed: Mapping[str, str] | None = None if indexed is None else dict(indexed)
        self.shows: Mapping[str, str] = dict(shows or {})
        self.accepts: Codec[P] = Codec(accepts)
        check_payload(name, self.accepts, indexed or {}, self.shows)
        self.adds: Codec[A] | None = Codec(adds) if adds is not None else None
        self.migrations = _beside_caller(migrations)
        self.folder = _beside_caller(".")
        """The folder of the module that declares the stage."""
        self.steps: list[DeclaredStep[Any, Any]] = []
        self.credentials_functions: dict[str, CredentialsFunction] = {}
        self._output: Callable[[Saga[P]], A] | None = None

    @overload
    def transaction(self, function: TransactionFunction[P, R], /) -> TransactionStep[P, R]: ...
    @overload
    def transaction(
        self,
        function: None = None,
        /,
        *,
        attempts_max: int = 4,
        compensation: None = None,
        reason: str = "",
    ) -> Callable[[TransactionFunction[P, R]], TransactionStep[P, R]]: ...

    def transaction(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        attempts_max: int = 4,
        compensation: None = None,
        reason: str = "",
    ) -> Any:
        """Declare a local transaction `async def step(tx, saga)`.

        It may await `tx` and nothing else. It succeeds when it returns, is refused when it raises
        Refused, and is tried again in a new database transaction, at most `attempts_max` times,
        when it raises anything else. `compensation=None` says that nothing has to be undone, and
        `reason` why.
        """
        check_uncompensated(compensation)

        def declare(function: Callable[..., Any]) -> TransactionStep[Any, Any]:
            rules = Step(
                name=_name_of(function),
                kind=StepKind.TRANSACTION,
                execution=_policy(EXECUTION, attempts_max),
                compensation=COMPENSATION,
            )
            return self._add(TransactionStep(self.name, function, rules, reason))

        return declare if function is None else declare(function)

    # Long and many because each parameter is a word of the author's; all but `to` have a default.
    def call(
        self,
        *misplaced: Never,
        to: str = "",
        timeout: float = 10.0,
        together: str = "",
        pivot: bool = False,
        idempotent: bool = True,
        requests: int = 1,
        attempts_max: int = 4,
        compensation_attempts_max: int | None = None,
        transient_on: set[int] | frozenset[int] = frozenset(),
        refused_on: set[int] | frozenset[int] = frozenset(),
        pending_on: set[int] | frozenset[int] = frozenset(),
        pending_seconds_max: float = PENDING_SECONDS_MAX,
        never_retry: AbstractSet[int | type[Exception]] = frozenset(),
        key_lifetime_seconds: float | None = None,
        probe_after_undo: bool = False,
        compensation: None = None,
        reason: str = "",
    ) -> CallDecorator[P]:
        """Declare a call `async def step(http, saga)` to the external API configured as `to`.

        `timeout` is in seconds, for one attempt. Consecutive calls with the same `together` run at
        the same time. After a `pivot` the stage only goes forward. `idempotent=False` says that
        the API ignores idempotency keys, so that a call in doubt is never repeated. The function
        makes one request, or at most `requests`. A code in `transient_on` means that nothing
        happened, one in `refused_on` is a business no, and one in `pending_on` that the API took
        the call on: the probe finds its end within `pending_seconds_max`. An attempt that ends with
        a code or an exception of `never_retry` is the last one. A request in doubt is not repeated
        once the API has forgotten its key, after `key_lifetime_seconds`. `probe_after_undo` asks
        the probe after an undo without a result. `compensation=None` says that nothing has to be
        undone, and `reason` why.
        """
        check_external(self.name, "call", misplaced, to)
        seconds = (timeout, key_lifetime_seconds or 1.0, pending_seconds_max)
        check_seconds(self.name, seconds)
        check_codes(
            self.name, transient_on=transient_on, refused_on=refused_on, pending_on=pending_on
        )
        if not min(seconds) > 0 or requests < 1:
            raise DeclarationError(
                f"{declaring_place()}: a call of stage {self.name!r} needs requests of at least 1,"
                " and timeout, key_lifetime_seconds and pending_seconds_max > 0, in seconds"
            )
        check_uncompensated(compensation)

        def declare(function: CallFunction[P, R]) -> ResultCallStep[P, R]:
            rules = Step(
                name=_name_of(function),
                kind=StepKind.CALL,
                peer=to,
                group=together,
                pivot=pivot,
                idempotent=idempotent,
                key_lifetime_seconds=key_lifetime_seconds,
                probe_after_undo=probe_after_undo,
                pending_seconds_max=pending_seconds_max,
                timeout_seconds=timeout,
                execution=_policy(EXECUTION, attempts_max),
                settlement=SETTLEMENT,
                compensation=_policy(COMPENSATION, compensation_attempts_max),
            )
            step: ResultCallStep[P, R] = ResultCallStep(self.name, function, rules, reason)
            step.transient_on, step.refused_on = frozenset(transient_on), frozenset(refused_on)
            step.pending_on = frozenset(pending_on)
            step.never_retry, step.requests = frozenset(never_retry), requests
            return self._add(step)

        return declare

    # Long and many because each parameter is a word of the author's; all but `to` have a default.
    def effect(
        self,
        *misplaced: Never,
        to: str = "",
        timeout: float = 10.0,
        together: str = "",
        pivot: bool = False,
        idempotent: bool = True,
        attempts_max: int = 4,
        compensation_attempts_max: int | None = None,
        pending_seconds_max: float = PENDING_SECONDS_MAX,
        never_retry: AbstractSet[type[Exception]] = frozenset(),
        key_lifetime_seconds: float | None = None,
        probe_after_undo: bool = False,
        compensation: None = None,
        reason: str = "",
    ) -> EffectDecorator[P]:
        """Declare an effect `async def step(saga)` at the system `to`, by any code of the author.

        It is for a vendor's SDK, gRPC or a queue. Its intent is durable before it runs in the
        event loop, and its outcome follows from what it raises: Refused, Transient and Pending as
        in a call; anything else, and `timeout` in seconds, is in doubt. Its requests are not in the
        journal: idempotence under `saga.key` is the author's promise, and `idempotent=False` says
        that there is none. The other parameters are those of a call.
        """
        check_external(self.name, "effect", misplaced, to)
        check_seconds(self.name, (timeout, key_lifetime_seconds or 1.0, pending_seconds_max))
        if not min(timeout, key_lifetime_seconds or 1.0, pending_seconds_max) > 0:
            raise DeclarationError(
                f"{declaring_place()}: an effect of stage {self.name!r} needs timeout,"
                " key_lifetime_seconds and pending_seconds_max > 0, in seconds"
            )
        check_uncompensated(compensation)

        def declare(function: EffectFunction[P, R]) -> ResultEffectStep[P, R]:
            rules = Step(
                name=_name_of(function),
                kind=StepKind.EFFECT,
                peer=to,
                group=together,
                pivot=pivot,
                idempotent=idempotent,
                key_lifetime_seconds=key_lifetime_seconds,
                probe_after_undo=probe_after_undo,
                pending_seconds_max=pending_seconds_max,
                timeout_seconds=timeout,
                execution=_policy(EXECUTION, attempts_max),
                settlement=SETTLEMENT,
                compensation=_policy(COMPENSATION, compensation_attempts_max),
            )
            step: ResultEffectStep[P, R] = ResultEffectStep(self.name, function, rules, reason)
            step.never_retry = frozenset(never_retry)
            return self._add(step)

        return declare

    def approval(
        self, name: str, /, *, timeout: float = PENDING_SECONDS_MAX
    ) -> Callable[[ApprovalFunction[P]], ApprovalStep[P]]:
        """Declare a step that waits for a person: `def step(saga)` returns what is shown.

        An operator approves or rejects it with a reason. A rejection turns the saga back, and so
        does `timeout`, in seconds. A function that returns None asks nobody: the saga goes on.
        Otherwise `saga.result(step)` is an `Approval`. The function must be plain and pure.
        """
        if not isinstance(name, str):  # written without parentheses
            raise DeclarationError(
                f"{declaring_place()}: an approval of stage {self.name!r} has to have a name:"
                f" write @{self.name}.approval('name')"
            )
        if not timeout > 0:
            raise DeclarationError(
                f"{declaring_place()}: approval {name!r} of stage {self.name!r} needs timeout > 0,"
                " in seconds"
            )

        def declare(function: ApprovalFunction[P]) -> ApprovalStep[P]:
            if inspect.iscoroutinefunction(function):
                raise DeclarationError(
                    f"{place_of(function)}: approval {name!r} of stage {self.name!r} must be a"
                    " plain function: def, not async def"
                )
            rules = Step(name=name, kind=StepKind.APPROVAL, pending_seconds_max=timeout)
            return self._add(ApprovalStep(self.name, function, rules, "a decision leaves nothing"))

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
        if self.adds is not None and (other := not_added(self.adds.kind, function)):
            raise DeclarationError(
                f"{place_of(function)}: the output of stage {self.name!r} returns {other}, and"
                f" adds= says {name_of(self.adds.kind)}: neighbours read what adds= says, so return"
                " that"
            )
        self._output = function
        return function

    def credentials(self, to: str) -> Callable[[CredentialsFunction], CredentialsFunction]:
        """Declare what the external API `to` is shown, where files of the operator do not do.

        The function takes the `OutgoingRequest` and returns headers. It is called each time that
        a request leaves, again for a repeat; what it returns is journaled nowhere (rule 30).
        """

        def declare(function: CredentialsFunction) -> CredentialsFunction:
            check_function(self.name, function, ("request",))
            if to in self.credentials_functions:
                raise DeclarationError(
                    f"stage {self.name!r} has two credentials functions for {to!r}: keep one"
                )
            self.credentials_functions[to] = function
            return function

        return declare

    def bind(
        self,
        downstreams: tuple[str, ...] = (),
        *,
        adjust: Callable[[Step], Step] | None = None,
        operator_headers: Callable[[str], frozenset[str]] = lambda _peer: frozenset(),
        patience_seconds: float = PATIENCE_SECONDS,
        adds_bytes_max: int = DEFAULT_LIMITS.adds_bytes_max,
    ) -> StageParticipant[P, A]:
        """The stage with its neighbours, checked. Raises DeclarationError with the fix.

        `adjust` changes the rules of each step, forwards included, as the operator configured.
        `operator_headers` gives the headers that the operator sets for an external API.
        An undo is tried for `patience_seconds` before it waits for a person (rule 28).
        `adds_bytes_max` bounds the output, as JSON.
        """
        # Long because the checks of a whole declaration stand in one place.
        called = {step.rules.peer for step in self.steps if isinstance(step, CallStep)}
        if nobody := sorted(set(self.credentials_functions) - called):
            raise DeclarationError(
                f"stage {self.name!r} has credentials for {nobody[0]!r}, which no step calls:"
                " give the name that stands in to="
            )
        if self.adds is not None and self._output is None:
            raise DeclarationError(
                f"stage {self.name!r} says adds= but declares no output:"
                f" write a function under @{self.name}.output"
            )
        plan = plan_of(self.name, tuple(step.as_step() for step in self.steps), downstreams)
        check_compensations(self.name, self.steps, plan)
        plan = self.lineage.applied_to(plan)
        plan = msgspec.structs.replace(plan, patience_seconds=patience_seconds)
        if adjust is not None:
            plan = adjusted(plan, adjust)
        adds = Adds(codec=self.adds, output=self._output, bytes_max=adds_bytes_max)
        before: StageParticipant[Any, Any] | None = None
        if self.supersedes is not None:
            before = self.supersedes.bind(
                downstreams,
                adjust=adjust,
                operator_headers=operator_headers,
                patience_seconds=patience_seconds,
                adds_bytes_max=adds_bytes_max,
            )
        bound = StageParticipant(plan, self.steps, self.accepts, adds, operator_headers, before)
        bound.indexed = self.indexed
        bound.shows = self.shows
        return bound

    def check_migrations(self) -> None:
        """Refuse a folder of migrations beside the module that the stage does not name.

        It looks at the disk, so the command line asks for it. Raises DeclarationError.
        """
        if self.folder is None or any(each.migrations for each in self.family()):
            return
        beside = self.folder / MIGRATIONS
        if next(beside.glob("*.sql"), None) is not None:
            raise DeclarationError(
                f"stage {self.name!r} names no migrations, and {beside} has some: write"
                f' Stage({self.name!r}, ..., migrations="{MIGRATIONS}"), or give the folder another'
                " name if it is not the stage's"
            )

    @property
    def output_function(self) -> Callable[[Saga[P]], A] | None:
        """The function that was declared under `output`; None without one."""
        return self._output

    def family(self) -> Iterator[StageDeclaration[Any, Any]]:
        """This stage, and those that it supersedes, the newest first."""
        each: StageDeclaration[Any, Any] | None = self
        while each is not None:
            yield each
            each = each.supersedes

    def _add(self, step: D) -> D:
        self.steps.append(step)
        return step


def _policy(default: RetryPolicy, attempts_max: int | None) -> RetryPolicy:
    if attempts_max is not None and attempts_max < 1:
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
