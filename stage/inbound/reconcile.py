"""`POST /reconcile`: sagas that neighbours know and a restored database lacks (rule 33)."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from stage.core.sweep import SWEEP_SAGAS_MAX, Sweep
from stage.core.sweep_verbs import SweepVerb
from stage.inbound.caller import permit
from stage.inbound.orders import (
    SWEEP_CHARS,
    check_rate,
    check_signed,
    not_understood,
    read_order,
)
from stage.inbound.principal import Who
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.reconcile import Adopt, Findings, Missing, NotReconcilable
from stage.wire.envelope import format_instant, parse_instant
from stage.wire.problem import WireError
from stage.wire.views import DifferenceView, MissingView, ReconcileView, WordView

ADMINS = frozenset({Who.ADMIN})
SINCE_MIN = 0.0
"""1970: neighbours are asked from some time before the instant that is given, which must exist."""
SHOWN = 500
"""Missing sagas, and differences, that an answer names."""


class ReconcileOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body: with `dry_run` the neighbours are asked, and nothing is changed.

    Otherwise the missing sagas are taken over, those of `saga_ids`, or all where `no_other_shard`
    says that the stage has no other one; with `compensate` a sweep compensates them.
    `under_these_names` says that they ran under the names of this release, where a saga of the
    database did not. `without` are neighbours that are not asked, with a reason each. `since` is
    needed where no backup was put back. `actor` counts only where callers have no names.
    """

    dry_run: bool = False
    reason: str = ""
    actor: str = ""
    since: str | None = None
    without: dict[str, str] = {}
    saga_ids: list[str] | None = None
    no_other_shard: bool = False
    under_these_names: bool = False
    compensate: bool = False
    rate_per_second: float = 10.0


async def reconcile(service: Service, request: Request) -> Answer:
    """Ask the neighbours, and take over or have compensated what a person orders."""
    order = await _order(service, request)
    if service.reconcile is None:
        raise WireError(404, "Not Found", "this process has no database of its own to reconcile")
    try:
        since = None if order.since is None else parse_instant(order.since)
        if since is not None and since < SINCE_MIN:
            raise ValueError("before any saga")
    except ValueError as error:
        raise not_understood(f"since: {error}", "for example 2026-11-23T02:30:00Z") from None
    adopt = None
    if not order.dry_run:
        adopt = Adopt(
            actor=order.actor,
            reason=order.reason,
            saga_ids=order.saga_ids,
            no_other_shard=order.no_other_shard,
            under_these_names=order.under_these_names,
        )
    try:
        found = await service.reconcile(since=since, without=order.without, adopt=adopt)
    except NotReconcilable as error:
        raise WireError(
            409, "Not to be reconciled", str(error), hint="GET /now says whether it awaits release"
        ) from error
    view = _view(found, await _compensated(service, order, found))
    return json_answer(replace(view, counts_for_release=found.counts and not order.dry_run))


async def _compensated(service: Service, order: ReconcileOrder, found: Findings) -> int | None:
    """The number of the sweep that compensates what was taken over; None where nothing is left.

    Sagas that somebody asked to compensate meanwhile are compensated without it.
    """
    adopted = frozenset(found.adopted)
    ids = [
        each.saga_id
        for each in found.missing
        if each.saga_id in adopted and each.may_stand and not each.asked_by
    ]
    ids = ids[:SWEEP_SAGAS_MAX]  # the others are parked as lost, and are found by that cause
    if not order.compensate or not ids:
        return None
    sweep = Sweep(
        at=service.clock.now(),
        actor=order.actor,
        verb=SweepVerb.COMPENSATE,
        reason=order.reason,
        where=f"{len(ids)} sagas that the database had lost",
        rate_per_second=order.rate_per_second,
        pending=len(ids),
    )
    return await service.engine.begin_sweep(sweep, ids)


async def _order(service: Service, request: Request) -> ReconcileOrder:
    order = await read_order(service, request, ReconcileOrder, "give dry_run, or a reason")
    if any(not reason.strip() for reason in order.without.values()):
        raise not_understood("a neighbour is left out without a reason", "say why it is not asked")
    if order.dry_run:
        return order
    permit(request.about.principal, ADMINS)
    check_signed(order, service.limits.reason_chars_max - SWEEP_CHARS)
    check_rate(order.rate_per_second)
    return order


def _view(found: Findings, sweep: int | None) -> ReconcileView:
    return ReconcileView(
        since=format_instant(found.since),
        asked=dict(found.asked),
        dropped=dict(found.dropped),
        unanswered=dict(found.unanswered),
        unnamed=dict(found.unnamed),
        missing=len(found.missing),
        sagas=[_missing_view(each) for each in found.missing[:SHOWN]],
        differences=[
            DifferenceView(
                saga_id=each.saga_id,
                state=each.state.value,
                neighbour=each.neighbour,
                said=each.said.value,
            )
            for each in found.differences[:SHOWN]
        ],
        adopted=len(found.adopted),
        too_late=not found.counts,
        called_otherwise=found.called_otherwise,
        sweep=sweep,
    )


def _missing_view(each: Missing) -> MissingView:
    return MissingView(
        saga_id=each.saga_id,
        said=[WordView(neighbour=word.neighbour, said=word.said) for word in each.words],
        asked_by=each.asked_by or None,
        may_stand=each.may_stand,
    )
