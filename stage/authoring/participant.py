"""The author's functions behind names and bytes: the engine's `Participant`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from stage.authoring import blocking
from stage.authoring.annotations import place_of
from stage.authoring.conversation import (
    EffectConversation,
    FunctionConversation,
    Reading,
)
from stage.authoring.http import Http
from stage.authoring.outcomes import Refused, Transient
from stage.authoring.payload import REFUSALS, Codec, encode_json, mistake_in
from stage.authoring.saga import Saga
from stage.authoring.steps import ApprovalStep, CallStep, DeclaredStep, EffectStep, ExternalStep
from stage.authoring.webhook import Declined, Landed, WebhookFunction, run_webhook
from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.errors import StageError
from stage.core.failure import FailureKind
from stage.core.raised import exit_raised, raised
from stage.core.steps import Plan
from stage.ports.stage import Conversation, Failed, RunView
from stage.ports.store import Term, Tx
from stage.ports.webhook import Heard, Said, WebhookRequest
from stage.wire.limits import DEFAULT_LIMITS, VALUE_BYTES_MIN
from stage.wire.problem import ProblemType, WireError
from stage.wire.strict_json import values_kept

P = TypeVar("P")
A = TypeVar("A")


class Adds(msgspec.Struct, Generic[P, A], frozen=True, kw_only=True):
    """The output of the stage: its type, its function, and its largest size."""

    codec: Codec[A] | None
    output: Callable[[Saga[P]], A] | None
    bytes_max: int


class StageParticipant(Generic[P, A]):
    """One declaration with its neighbours, which the plan holds."""

    def __init__(
        self,
        plan: Plan,
        steps: Iterable[DeclaredStep[Any, Any]],
        accepts: Codec[P],
        adds: Adds[P, A],
        operator_headers: Callable[[str], frozenset[str]] = lambda _peer: frozenset(),
        supersedes: StageParticipant[Any, Any] | None = None,
    ) -> None:
        self.plan = plan
        """The steps, forwards included."""
        self.supersedes = supersedes
        """The version before, if it is declared."""
        self.indexed: Mapping[str, str] | None = None
        """See `ports.stage.Participant`; the declaration sets it."""
        self.shows: Mapping[str, str] = {}
        """See `ports.stage.Participant`; the declaration sets it."""
        self._steps = {step.name: step for step in steps}
        self._readings = {
            (step.name, kind): self._reading(step, kind)
            for step in self._steps.values()
            if isinstance(step, ExternalStep)
            for kind in (AttemptKind.EXECUTE, AttemptKind.PROBE, AttemptKind.COMPENSATE)
        }
        blocking.watch()
        self._accepts = accepts
        self._adds = adds
        self._operator_headers = operator_headers

    def check(self, data: Mapping[str, Any]) -> None:
        """See `ports.stage.Participant`."""
        if self.plan.stage in data:
            raise WireError(
                422,
                "Own member taken",
                f"data already holds a member {self.plan.stage!r}, the name of this stage",
                hint="leave that name to the stage: nothing that others wrote is overwritten",
                type=ProblemType.OWN_MEMBER,
            )
        try:
            self._accepts.from_data(data)
        except Exception:
            raise
        except BaseException as error:
            raise exit_raised(self.plan.stage, error) from error

    def check_result(self, step: str, result: msgspec.Raw) -> None:
        """See `ports.stage.Participant`."""
        declared = self._steps.get(step)
        if declared is None:
            return  # a forward: only downstream can judge what it added
        try:
            declared.decode_result(result)
        except (msgspec.MsgspecError, ValueError) as error:
            members = ", ".join(sorted(declared.codec.members()))
            raise WireError(
                422,
                "Result not accepted",
                f"result of {step}: {error}",
                hint="give the result (`stage settle --result JSON`) as the step's function would"
                f" have returned it{f', with {members}' if members else ''}",
            ) from error

    async def run_transaction(
        self, tx: Tx, kind: AttemptKind, step: str, view: RunView
    ) -> msgspec.Raw:
        """See `ports.stage.Participant`."""
        declared = self._steps[step]
        saga = Saga(view, self._accepts)
        token = blocking.running.set(step)
        try:
            if kind is AttemptKind.COMPENSATE:
                assert declared.compensating is not None  # the machine asks only where there is one
                await declared.compensating(tx, saga)
                tx.check_awaited()
                return msgspec.Raw(b"null")
            value = await declared.function(tx, saga)
            tx.check_awaited()
            return msgspec.Raw(declared.encode_result(value))
        finally:
            blocking.running.reset(token)

    def explain(self, error: Exception) -> Failed:
        """See `ports.stage.Participant`."""
        reason = str(error) or type(error).__name__
        match error:
            case Refused():
                return Failed(kind=FailureKind.REFUSED, reason=reason, said=True)
            case Transient():
                return Failed(
                    kind=FailureKind.TRANSIENT, reason=reason, retry_after=error.retry_after
                )
            case _:
                return Failed(kind=FailureKind.TRANSIENT, reason=raised(error))

    def converse(self, kind: AttemptKind, step: str, view: RunView) -> Conversation:
        """See `ports.stage.Participant`."""
        declared = self._steps[step]
        assert isinstance(declared, ExternalStep)
        peer = declared.rules.peer
        http, saga = Http(peer, self._operator_headers(peer)), Saga(view, self._accepts)
        given: tuple[Any, ...] = (saga,) if isinstance(declared, EffectStep) else (http, saga)
        encode: Callable[[Any], bytes] = declared.encode_result
        if kind is AttemptKind.EXECUTE:
            coroutine = declared.function(*given)
        elif kind is AttemptKind.PROBE:
            assert declared.probing is not None
            coroutine = declared.probing(*given)
            encode = _encode_found(declared)
        else:
            assert declared.compensating is not None
            body = view.results.get(step)
            result = None if body is None else _decoded(declared, body)
            coroutine = declared.compensating(*given, result)
            encode = _encode_nothing
        reading = self._readings[step, kind]
        kinds = EffectConversation if isinstance(declared, EffectStep) else FunctionConversation
        return kinds(coroutine, http, encode, reading)

    def _reading(self, declared: ExternalStep[Any, Any], kind: AttemptKind) -> Reading:
        """How the answers to such an attempt are read.

        A no to the call is one to its look-up in no API: there a 404 says that the key is unknown,
        and the call may be on its way. Nor is it one to its undo, which is tried for days, and of
        which an API says 202 for its own reasons. So `refused_on` speaks for the call alone, and
        `pending_on` for no undo (decision 0108).
        """
        executes, compensates = kind is AttemptKind.EXECUTE, kind is AttemptKind.COMPENSATE
        never_retry = declared.never_retry | self.plan.step(declared.name).never_retry
        keyed = declared.rules.idempotent or not executes
        if not isinstance(declared, CallStep):
            return Reading(never_retry=never_retry, keyed=keyed)
        return Reading(
            transient_on=declared.transient_on,
            refused_on=declared.refused_on if executes else frozenset(),
            pending_on=frozenset() if compensates else declared.pending_on,
            noes=declared.refused_on if compensates else frozenset(),
            requests_max=declared.requests if executes else None,
            keyed=keyed,
            never_retry=never_retry,
        )

    def shown(self, step: str, view: RunView) -> msgspec.Raw | None:
        """See `ports.stage.Participant`."""
        declared = self._steps[step]
        assert isinstance(declared, ApprovalStep)
        try:
            body = declared.shown(Saga(view, self._accepts))
        except Exception:
            raise
        except BaseException as error:
            raise exit_raised(step, error) from error
        return None if body is None else msgspec.Raw(body)

    def hear(self, request: WebhookRequest) -> list[Said]:
        """See `ports.stage.Participant`."""
        return [
            _said(step, step.hearing, request)
            for step in self._steps.values()
            if isinstance(step, ExternalStep)
            and step.hearing is not None
            and step.rules.peer == request.external
        ]

    def output(self, view: RunView) -> msgspec.Raw | None:
        """See `ports.stage.Participant`."""
        adds = self._adds
        if adds.output is None:
            return None
        try:
            value = adds.output(Saga(view, self._accepts))
        except Exception:
            raise
        except BaseException as error:
            raise exit_raised("the output", error) from error
        body = encode_json(value) if adds.codec is None else _as_declared(adds.codec, value)
        if len(body) > adds.bytes_max:
            raise StageError(
                f"it has {len(body)} bytes, adds_bytes_max is {adds.bytes_max}: add less,"
                " or raise the setting"
            )
        most = DEFAULT_LIMITS.adds_values_max
        if len(body) > most * VALUE_BYTES_MIN and values_kept(msgspec.json.decode(body)) > most:
            raise StageError(f"it has more than {most} members and items: add less")
        return msgspec.Raw(body)


def _as_declared(codec: Codec[A], value: A) -> bytes:
    """The JSON of an output. Raises StageError where a neighbour could not read it as `adds=`."""
    body = codec.to_json(value)
    try:
        codec.from_json(body)
    except REFUSALS as error:
        raise StageError(
            f"it is a {type(value).__name__} and not what adds= says: {mistake_in(error)}. Return"
            " what neighbours are promised"
        ) from error
    return body


def _said(
    step: ExternalStep[Any, Any], function: WebhookFunction[Any], request: WebhookRequest
) -> Said:
    try:
        said = run_webhook(place_of(function), function, request)
        return None if said is None else _heard(step, said, request.now)
    except Exception as error:
        return error


def _heard(step: ExternalStep[Any, Any], said: Landed[Any] | Declined, at: float) -> Heard:
    event: e.Webhook
    if isinstance(said, Landed):
        result = msgspec.Raw(_encoded(step, said.result))
        event = e.WebhookFound(at=at, step=step.name, result=result)
    else:
        event = e.WebhookRefused(at=at, step=step.name, reason=said.reason)
    number = None if said.number is None else Term(*said.number)
    return Heard(event=event, key=said.key, number=number)


def _encoded(step: ExternalStep[Any, Any], result: object) -> bytes:
    """The result that a webhook brought; its type may run code of the author's."""
    try:
        return step.encode_result(result)
    except Exception:
        raise
    except BaseException as error:
        raise exit_raised(step.name, error) from error


def _decoded(step: DeclaredStep[Any, Any], body: msgspec.Raw) -> Any:
    """The result to be undone; its type may run code of the author's."""
    try:
        return step.decode_result(body)
    except Exception:
        raise
    except BaseException as error:
        raise exit_raised(step.name, error) from error


def _encode_found(step: ExternalStep[Any, Any]) -> Callable[[Any], bytes]:
    return lambda value: b"null" if value is None else step.encode_result(value)


def _encode_nothing(_value: Any) -> bytes:
    return b"null"
