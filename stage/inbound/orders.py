"""Reads the order of an operator: its body, who gives it, and why (rule 14).

The journal or the audit keeps the actor and the reason of every order, so each endpoint demands
both, within the same limits.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec.json import encode

from stage.core.act_key import ActKey
from stage.core.sweep_verbs import SWEEP_RATE_MAX
from stage.inbound.read import read_json
from stage.inbound.request import Request
from stage.inbound.service import Service
from stage.wire import headers as h
from stage.wire.problem import WireError
from stage.wire.strict_json import decode_object

ACTOR_CHARS_MAX: Final = 128
STEP_CHARS_MAX: Final = 256
REPLAYED: Final = (h.IDEMPOTENCY_REPLAYED, "true")
"""Says of an answer that the order was given under its key before, and nothing was done now."""
SWEEP_CHARS: Final = 32
"""The characters that the number of a sweep takes of the reason that each of its sagas keeps."""

O = TypeVar("O", bound=msgspec.Struct)  # noqa: E741 - an order


class Signed(Protocol):
    """An order with the one who gives it and the reason."""

    @property
    def actor(self) -> str:
        """The name of the operator."""

    @property
    def reason(self) -> str:
        """Why it is given."""


async def read_order(service: Service, request: Request, kind: type[O], hint: str) -> O:
    """The body of an order; its actor is the principal of the request, where that has a name.

    Raises WireError 422 with the `hint` for a body of another shape, and what `read_json` raises.
    An empty `step` is refused: without one the order is for every step, which has to be meant.
    """
    members = decode_object(await read_json(request), service.limits)
    if members.get("step") == "":
        raise not_understood("`step` is empty", "leave it out, or give the name of a step")
    if request.about.principal.name:
        members["actor"] = request.about.principal.name
    try:
        return msgspec.convert(members, kind)
    except msgspec.ValidationError as error:
        raise not_understood(str(error), hint) from None


def check_signed(order: Signed, reason_chars_max: int) -> None:
    """Raise WireError 422 for an order without an actor or a reason, or with too long a one."""
    if not order.actor.strip() or not order.reason.strip():
        raise WireError(
            422,
            "Order incomplete",
            "actor and reason must not be empty",
            hint="they are kept, so that others can see who did what and why",
        )
    for name, text, most in (
        ("actor", order.actor, ACTOR_CHARS_MAX),
        ("reason", order.reason, reason_chars_max),
    ):
        if len(text) > most:
            raise not_understood(
                f"the {name} has {len(text)} characters", f"give at most {most} characters"
            )


def act_key_of(request: Request, order: Signed) -> ActKey | None:
    """The idempotency key of an order, with a digest of all that it orders; None without one.

    Raises WireError 400 for what is no key.
    """
    key = h.parse_act_key(request.headers.getall(h.IDEMPOTENCY_KEY, ()))
    if key is None:
        return None
    ordered = b"\0".join((request.method.encode(), request.path.encode(), encode(order)))
    return ActKey(key=key, digest=sha256(ordered).hexdigest())


def check_step(step: str) -> None:
    """Raise WireError 422 for what cannot be the name of a step."""
    if len(step) > STEP_CHARS_MAX:
        raise not_understood(
            f"no step has a name of {len(step)} characters", "GET the saga, which names its steps"
        )


def check_rate(rate_per_second: float) -> None:
    """Raise WireError 422 for a rate at which no sweep may go."""
    if not 0 < rate_per_second <= SWEEP_RATE_MAX:
        raise not_understood(
            f"rate_per_second is {rate_per_second:g}",
            f"give more than 0 and at most {SWEEP_RATE_MAX:g}",
        )


def not_understood(detail: str, hint: str) -> WireError:
    """422 for an order that cannot be meant as it stands."""
    return WireError(422, "Order not understood", detail, hint=hint)
