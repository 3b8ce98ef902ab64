"""`GET /pauses`, `POST /pauses` and `POST /pauses/end`: what an operator holds, and until when."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from stage.core.pause import INTAKE, PAUSE_SECONDS_MAX, Pause, Way
from stage.core.place import PEER_KINDS, UPSTREAMS
from stage.inbound.orders import (
    REPLAYED,
    act_key_of,
    check_signed,
    not_understood,
    read_order,
)
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.engine import ActRepeated
from stage.ports.stage import family_of
from stage.wire.envelope import format_instant
from stage.wire.problem import WireError
from stage.wire.views import PausesView, PauseView

B = TypeVar("B", bound="PauseOrder | ResumeOrder")

ENDS_MAX: Final = 3
"""How often an order to end a pause meets one that was put in the place of the one before."""
NOT_PAUSED: Final = "Not paused"
SHOWN: Final = "`stage pauses`, or GET /pauses, shows what is"


class PauseOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a pause: `intake`, or a peer by kind and name, for so many seconds.

    `direction` is `forward` or `backward`; without it both are held. `actor` counts only where
    callers have no names.
    """

    target: str
    seconds: float
    reason: str
    direction: Way | None = None
    actor: str = ""


class ResumeOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that ends a pause before its time: its target and direction.

    With `at` it ends the pause that began then, and none that another person put in its place.
    """

    target: str
    reason: str
    direction: Way | None = None
    at: str | None = None
    actor: str = ""


async def list_pauses(service: Service, request: Request) -> Answer:
    """The pauses in force."""
    return json_answer(_in_force(service))


async def pause(service: Service, request: Request) -> Answer:
    """Hold what goes to a peer, or refuse new sagas for now."""
    order = await _order(service, request, PauseOrder)
    if not 0 < order.seconds <= PAUSE_SECONDS_MAX:
        raise not_understood(
            f"seconds is {order.seconds:g}", f"give more than 0 and at most {PAUSE_SECONDS_MAX:g}"
        )
    targets = targets_of(service)
    known = order.target in targets or _is_upstream(service, order.target)
    if not known:
        raise not_understood(
            f"there is no peer {order.target!r}",
            f"those that can be paused: {', '.join(targets)}, {UPSTREAMS}.NAME",
        )
    if order.target == INTAKE and order.direction is not None:
        raise not_understood("the intake has no direction", "leave `direction` out")
    key = act_key_of(request, order)
    now = service.clock.now()
    pause = Pause(
        target=order.target,
        way=order.direction,
        at=now,
        until=now + order.seconds,
        actor=order.actor,
        reason=order.reason,
    )
    try:
        await service.engine.pause(pause, key)
    except ActRepeated:
        return json_answer(_in_force(service), REPLAYED)
    return json_answer(_in_force(service))


async def end_pause(service: Service, request: Request) -> Answer:
    """End a pause before its time; what it held leaves at once."""
    order = await _order(service, request, ResumeOrder)
    key = act_key_of(request, order)
    try:
        await service.engine.read_pauses()  # one may have been pressed at another replica
        ended_by_others = False
        for _ in range(ENDS_MAX):
            if (each := _named(service, order)) is None:
                break
            _check_same(each, order.at)
            actor, reason = order.actor, order.reason
            if await service.engine.resume(each, actor=actor, reason=reason, act_key=key):
                return json_answer(_in_force(service))
            ended_by_others = True  # or another one was put in its place
        if ended_by_others:
            if key is not None:  # a late copy would end a pause that was put there since
                await service.engine.refuse_order(key, "")
            return json_answer(_in_force(service))
        why = _not_paused(service, order)
        if key is not None:  # a late copy would end a pause that was put there since
            await service.engine.refuse_order(key, why.detail)
    except ActRepeated as error:
        if not error.kept.refused:
            return json_answer(_in_force(service), REPLAYED)
        why = WireError(404, NOT_PAUSED, error.kept.refused, hint=SHOWN)
    raise why


def _named(service: Service, order: ResumeOrder) -> Pause | None:
    """The pause in force that the order names."""
    for each in service.engine.pauses:
        if (each.target, each.way) == (order.target, order.direction):
            return each
    return None


def _not_paused(service: Service, order: ResumeOrder) -> WireError:
    """404 that names the direction in which the target is held, where it is."""
    held = [each.way for each in service.engine.pauses if each.target == order.target]
    if not held:
        return WireError(404, NOT_PAUSED, f"{order.target!r} is not paused", hint=SHOWN)
    asked, ways = (
        "both directions" if way is None else way.value for way in (order.direction, held[0])
    )
    mend = "leave `direction` out" if held[0] is None else f"--direction {ways}, or `direction`"
    return WireError(
        404,
        NOT_PAUSED,
        f"{order.target!r} is not paused in {asked}: it is in {ways}",
        hint=f"end it as it was given: {mend}",
    )


def _check_same(pause: Pause, at: str | None) -> None:
    """Raise WireError 409 where another pause than the one that began `at` is in force by now."""
    if at is not None and format_instant(pause.at) != at:
        raise WireError(
            409,
            "Another pause",
            f"{pause.actor} has paused {pause.target!r} anew meanwhile, until"
            f" {format_instant(pause.until)}: {pause.reason}",
            hint="look at it, and ask whoever paused it before you end it",
        )


def targets_of(service: Service) -> list[str]:
    """The targets of a pause, upstreams aside: the intake, and the peers of all steps."""
    peers = {
        f"{PEER_KINDS[step.kind]}.{step.peer}"
        for version in family_of(service.participant)
        for step in version.plan.steps
        if step.kind in PEER_KINDS
    }
    return [INTAKE, *sorted(peers)]


def _is_upstream(service: Service, target: str) -> bool:
    kind, _, name = target.partition(".")
    return kind == UPSTREAMS and service.neighbours.is_upstream(name)


def _in_force(service: Service) -> PausesView:
    return PausesView(pauses=[pause_view(each) for each in service.engine.pauses])


def pause_view(pause: Pause) -> PauseView:
    """A pause as people see it."""
    return PauseView(
        target=pause.target,
        direction=None if pause.way is None else pause.way.value,
        at=format_instant(pause.at),
        until=format_instant(pause.until),
        actor=pause.actor,
        reason=pause.reason,
    )


async def _order(service: Service, request: Request, kind: type[B]) -> B:
    """The body of a pause, in the name of the principal. Raises WireError 422."""
    order = await read_order(service, request, kind, "give target, reason, and seconds for a pause")
    check_signed(order, service.limits.reason_chars_max)
    return order
