"""The operator's verbs: retry, approve, settle and others, each with actor and reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.errors import JournalMismatch
from stage.inbound.orders import REPLAYED, act_key_of, check_signed, check_step, read_order
from stage.inbound.problems import problem_answer
from stage.inbound.read import saga_id_of
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.inbound.views import never_seen, view_of_snapshot
from stage.ports.engine import ActRepeated, NotAllowed, Snapshot
from stage.ports.stage import family_of
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType, WireError


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a verb.

    `step`, `landed` and `result` belong to settle; resolve, abandon, approve and reject have a
    `step` too. `anew` and `new_key` belong to retry, and `step` to a retry anew. `actor` counts
    only where callers have no names: otherwise it is the principal.
    """

    reason: str
    actor: str = ""
    dry_run: bool = False
    step: str = ""
    landed: bool | None = None
    result: Any = None
    anew: bool = False
    new_key: bool = False


Make = Callable[[Order, float], e.Verb]
Do = Callable[[ActKey | None], Awaitable[Snapshot | None]]


def _retry(order: Order, at: float) -> e.Verb:
    if not order.anew and (order.new_key or order.step):
        raise WireError(
            422,
            "Order incomplete",
            "`new_key` and `step` belong to a retry that makes an undo's request anew",
            hint='add "anew": true, or leave them out',
        )
    return e.Retried(
        at=at,
        actor=order.actor,
        why=order.reason,
        anew=order.anew,
        new_key=order.new_key,
        step=order.step,
    )


def _settle(order: Order, at: float) -> e.Verb:
    if order.landed is None or not order.step:
        raise WireError(
            422,
            "Order incomplete",
            "settle needs `step` and `landed`",
            hint='for example {"step": "charge", "landed": true, "result": {...}, ...}',
        )
    if order.result is not None and not order.landed:
        raise WireError(
            422,
            "Order contradicts itself",
            "`result` is given, and `landed` is false",
            hint="leave `result` out, or say that it landed",
        )
    return e.Settled(
        at=at,
        actor=order.actor,
        why=order.reason,
        step=order.step,
        landed=order.landed,
        result=msgspec.Raw(msgspec.json.encode(order.result)),
    )


def _resolve(order: Order, at: float) -> e.Verb:
    return e.Resolved(at=at, actor=order.actor, why=order.reason, step=order.step)


def _abandon(order: Order, at: float) -> e.Verb:
    return e.Abandoned(at=at, actor=order.actor, why=order.reason, step=order.step)


def _forget(order: Order, at: float) -> e.Verb:
    return e.Forgotten(at=at, actor=order.actor, why=order.reason)


def _approve(order: Order, at: float) -> e.Verb:
    _check_named(order, "approve")
    return e.Approved(at=at, actor=order.actor, why=order.reason, step=order.step)


def _reject(order: Order, at: float) -> e.Verb:
    _check_named(order, "reject")
    return e.Rejected(at=at, actor=order.actor, why=order.reason, step=order.step)


def _check_named(order: Order, verb: str) -> None:
    """Refuse a decision that names no step: by the time it arrives another one may wait."""
    if not order.step:
        raise WireError(
            422,
            "Order incomplete",
            f"{verb} needs `step`: the approval that was looked at",
            hint='for example {"step": "risk", "reason": "..."}; GET the saga with ?view=verbs',
        )


async def retry(service: Service, request: Request) -> Answer:
    """Try what is parked again."""
    return await _operate(service, request, _retry)


async def approve(service: Service, request: Request) -> Answer:
    """Say yes to a step that awaits approval."""
    return await _operate(service, request, _approve)


async def reject(service: Service, request: Request) -> Answer:
    """Say no to a step that awaits approval."""
    return await _operate(service, request, _reject)


async def settle(service: Service, request: Request) -> Answer:
    """Decide whether the effect of a step that is in doubt has landed."""
    return await _operate(service, request, _settle)


async def resolve(service: Service, request: Request) -> Answer:
    """Declare what still stands undone by hand."""
    return await _operate(service, request, _resolve)


async def abandon(service: Service, request: Request) -> Answer:
    """End it with what stands, which upstream is notified of."""
    return await _operate(service, request, _abandon)


async def forget(service: Service, request: Request) -> Answer:
    """Give up a saga that is parked or has ended: it is closed, and its answer stays."""
    return await _operate(service, request, _forget)


async def erase(service: Service, request: Request) -> Answer:
    """Drop all contents of a saga that is over, also from the files of the database."""
    saga_id = saga_id_of(request)
    order = await _order(service, request)

    async def do(key: ActKey | None) -> Snapshot | None:
        return await service.engine.erase(
            saga_id, actor=order.actor, reason=order.reason, dry_run=order.dry_run, act_key=key
        )

    return await _done(service, request, order, do)


async def _operate(service: Service, request: Request, make: Make) -> Answer:
    """Do what the operator asks and answer with the saga as it stands, or would stand, after."""
    saga_id = saga_id_of(request)
    order = await _order(service, request)
    verb = make(order, service.clock.now())
    wrong = await _wrong_result(service, saga_id, verb)

    async def do(key: ActKey | None) -> Snapshot | None:
        keyed = replace(verb, act_key=key)
        dry_run = order.dry_run or wrong is not None
        done = await service.engine.operate(saga_id, keyed, dry_run=dry_run)
        if wrong is not None:  # behind the reason why it would not be allowed with any result
            raise wrong
        return done

    return await _done(service, request, order, do)


async def _done(service: Service, request: Request, order: Order, do: Do) -> Answer:
    """The answer to a verb. A repeat under its key is answered as the first was."""
    saga_id = saga_id_of(request)
    replayed: tuple[tuple[str, str], ...] = ()
    try:
        snapshot = await do(act_key_of(request, order))
    except (NotAllowed, JournalMismatch) as error:
        return problem_answer(request, _not_allowed(saga_id, str(error)))
    except ActRepeated as error:
        replayed = (REPLAYED,)
        if error.kept.refused:
            return problem_answer(request, _not_allowed(saga_id, error.kept.refused), *replayed)
        snapshot = await service.engine.get_saga(saga_id)
    if snapshot is None:
        raise never_seen(saga_id)
    return json_answer(view_of_snapshot(service, snapshot), *replayed)


async def _order(service: Service, request: Request) -> Order:
    order = await read_order(service, request, Order, "give actor and reason, and dry_run")
    check_signed(order, service.limits.reason_chars_max)
    check_step(order.step)
    return order


async def _wrong_result(service: Service, saga_id: str, verb: e.Verb) -> WireError | None:
    """The refusal of a result that the step, by the version of the saga, would not have returned.

    Raises the error of a payload type that fails by itself.
    """
    if not isinstance(verb, e.Settled) or not verb.landed:
        return None
    snapshot = await service.engine.get_saga(saga_id)
    if snapshot is None or snapshot.saga.under(service.participant.plan).misfit:
        return None  # no function here knows it
    for each in family_of(service.participant):
        if each.plan.version == snapshot.saga.version:
            try:
                each.check_result(verb.step, verb.result)
            except WireError as error:
                return error
    return None


def _not_allowed(saga_id: str, detail: str) -> Problem:
    return Problem(
        type=ProblemType.VERB_NOT_ALLOWED,
        status=409,
        title="Not allowed now",
        detail=detail,
        outcome=Outcome.NOT_EXECUTED,
        retryable=False,
        saga_id=saga_id,
        hint="GET the saga to see how it stands",
    )
