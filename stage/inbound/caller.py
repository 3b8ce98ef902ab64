"""Finds the principal of a request, and refuses what it may not do (rule 36).

The table of routes names, for each endpoint, those who may call it. Whether a neighbour
may see and compensate one saga follows from its owner.
"""

from __future__ import annotations

from typing import Protocol

from msgspec.structs import replace

from stage.core.requester import Requester
from stage.inbound.local import is_of_this_machine
from stage.inbound.principal import CLAIMED, ELSEWHERE, Kind, Principal, Who, local
from stage.inbound.request import Request
from stage.wire.envelope import Envelope
from stage.wire.problem import ProblemType, WireError
from stage.wire.replies import UNKNOWN_REQUESTER, CompensateRequest


class Callers(Protocol):
    """Finds the principal of a request, by what it shows and where it came in."""

    async def identify(self, request: Request) -> Principal:
        """Its principal. Never raises for what the request shows: then it is a stranger."""
        ...


class Claims:
    """A caller of this machine may do everything and is whom it claims to be: `auth = "none"`.

    `stage serve` listens on loopback only then. Another server listens as it likes.
    """

    async def identify(self, request: Request) -> Principal:
        """See `Callers`. The user of this machine has a name also here."""
        if request.local_user:
            return local(request.local_user)
        return CLAIMED if is_of_this_machine(request.local_address) else ELSEWHERE


def permit(principal: Principal, who: frozenset[Who]) -> None:
    """Raise WireError 401 for a caller without a name, 403 for one that may not, by the table."""
    if not principal.who.isdisjoint(who):
        return
    if not principal.known:
        raise WireError(
            401,
            "No name",
            "the request shows no token that is known here",
            hint=principal.hint
            or "send Authorization: Bearer TOKEN, of which this stage has the hash"
            " (`stage keys new`)",
            retryable=True,
        )
    allowed = ", ".join(sorted(each.value for each in who))
    raise WireError(
        403,
        "Not allowed",
        f"{principal.kind.value} {principal.name!r} may not do this: {allowed} may",
        hint="an operator's role is in the configuration of this stage",
    )


def check_opener(principal: Principal, envelope: Envelope) -> None:
    """Raise WireError 403 unless the last name in the trail is that of the upstream that sends."""
    if principal.kind is not Kind.UPSTREAM:
        return
    last = envelope.upstream
    if last not in principal.names:
        raise not_yours(
            f"the trail ends with {last!r}, and {principal.name!r} sends it"
            if last
            else f"the trail is empty, and {principal.name!r} sends it"
        )


def as_requester(
    principal: Principal, asked: CompensateRequest
) -> tuple[CompensateRequest, Requester]:
    """The request to compensate under the name of its principal, and what that is to the saga.

    It may be named by a former one: a saga that began under that one is found by it.

    Raises WireError 403 for a neighbour that asks under another name than its own.
    """
    match principal.kind:
        case Kind.CLAIMED:
            return asked, Requester.CLAIMED
        case Kind.OPERATOR:
            return replace(asked, requested_by=f"operator {principal.name}"), Requester.OPERATOR
    if asked.requested_by not in (UNKNOWN_REQUESTER, *principal.names):
        raise not_yours(f"requested_by is {asked.requested_by!r}, and {principal.name!r} asks")
    return (
        replace(asked, requested_by=principal.name),
        Requester.UPSTREAM if principal.kind is Kind.UPSTREAM else Requester.DOWNSTREAM,
    )


def requester_of(principal: Principal) -> Requester:
    """The relation of the principal to sagas."""
    match principal.kind:
        case Kind.UPSTREAM:
            return Requester.UPSTREAM
        case Kind.DOWNSTREAM:
            return Requester.DOWNSTREAM
        case Kind.OPERATOR:
            return Requester.OPERATOR
        case _:
            return Requester.CLAIMED


def not_here() -> WireError:
    """404 for what only another port serves."""
    return WireError(
        404, "Not Found", "this port has the protocol alone", hint="ask at the admin port"
    )


def not_yours(detail: str) -> WireError:
    """403 for a saga of another caller, or in another caller's name."""
    return WireError(
        403,
        "Not your saga",
        detail,
        hint="nothing was done for you; send your own name, as this stage has it configured",
        type=ProblemType.NOT_YOURS,
    )
