"""`/sweeps`: a verb for many sagas, named by a filter or by their ids; first without effect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from stage.core.act_key import ActKey, KeptAct
from stage.core.sweep import SWEEP_SAGAS_MAX, Sweep, SweepEnd, SweepState
from stage.core.sweep_verbs import SweepVerb
from stage.inbound import orders
from stage.inbound.caller import permit
from stage.inbound.filters import filter_of, not_understood
from stage.inbound.orders import (
    REPLAYED,
    SWEEP_CHARS,
    act_key_of,
    check_rate,
    check_signed,
    check_step,
    read_order,
)
from stage.inbound.principal import Who
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.engine import ActRepeated
from stage.ports.store import Filter
from stage.wire.envelope import format_instant
from stage.wire.problem import WireError
from stage.wire.views import SweepSagaView, SweepsView, SweepView

ADMINS = frozenset({Who.ADMIN})
OF_OPERATORS = frozenset({SweepVerb.RETRY, SweepVerb.COMPENSATE})
"""The verbs that need no admin, as for one saga."""
PAGE = 500
SWEEPS_SHOWN = 50
REFUSED_SHOWN = 100


class SweepOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a sweep. `where` has the parameters of `GET /sagas`, or `saga_ids` names them.

    `dry_run` counts them and shows the first, and nothing is begun. `actor` counts only where
    callers have no names.
    """

    verb: SweepVerb
    reason: str
    where: dict[str, str | list[str]] = {}
    saga_ids: list[str] = []
    step: str = ""
    rate_per_second: float = 10.0
    dry_run: bool = False
    actor: str = ""


class SweepChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that stops a sweep, or lets it go on."""

    reason: str
    actor: str = ""


async def list_sweeps(service: Service, request: Request) -> Answer:
    """The newest sweeps first, with their counts."""
    found = await service.engine.sweeps(SWEEPS_SHOWN)
    return json_answer(SweepsView(sweeps=[sweep_view(each) for each in found]))


async def get_sweep(service: Service, request: Request) -> Answer:
    """One sweep, with the first of the sagas to which it could not be done."""
    return json_answer(await _shown(service, _number(request)))


async def begin_sweep(service: Service, request: Request) -> Answer:
    """Begin a sweep: it goes on by itself, also in another process."""
    order = await _order(service, request)
    key = None if order.dry_run else act_key_of(request, order)
    try:
        if key is not None:  # before the filter is asked, which may name others by now
            await service.engine.refuse_repeat(key)
        return await _begin(service, order, key)
    except ActRepeated as error:
        return json_answer(await _repeated(service, order, error.kept), REPLAYED)


async def _begin(service: Service, order: SweepOrder, key: ActKey | None) -> Answer:
    ids, left = order.saga_ids, 0
    if not ids:
        ids, left = await _named(service, order)
    if why := _why_not(ids):
        if key is not None:  # a late copy may find fewer
            await service.engine.refuse_order(key, why)
        raise _too_many(why)
    sweep = _sweep(order, service.clock.now(), len(ids))
    if not ids and key is not None:  # a late copy would act on sagas that have come since
        await service.engine.refuse_order(key, "")
    if order.dry_run or not ids:
        shown = msgspec.structs.replace(sweep_view(sweep), first=ids[:PAGE])
    else:
        shown = await _shown(service, await service.engine.begin_sweep(sweep, ids, key))
    return json_answer(msgspec.structs.replace(shown, left=left or None))


def _why_not(ids: Sequence[str]) -> str:
    """Why no sweep can be for these sagas; empty where it can."""
    if len(ids) > SWEEP_SAGAS_MAX:
        return f"it names more than {SWEEP_SAGAS_MAX:,} sagas"
    return "a saga is named twice" if len(set(ids)) != len(ids) else ""


async def _repeated(service: Service, order: SweepOrder, kept: KeptAct) -> SweepView:
    """The answer to a late copy: that of the first, which may have begun no sweep."""
    if kept.refused:
        raise _too_many(kept.refused)
    if kept.sweep:
        return await _shown(service, kept.sweep)
    return msgspec.structs.replace(sweep_view(_sweep(order, kept.at, 0)), first=[])


def _too_many(why: str) -> WireError:
    return orders.not_understood(why, f"narrow them to at most {SWEEP_SAGAS_MAX:,}, each once")


def _sweep(order: SweepOrder, at: float, sagas: int) -> Sweep:
    return Sweep(
        at=at,
        actor=order.actor,
        verb=order.verb,
        reason=order.reason,
        step=order.step,
        where=_words(order),
        rate_per_second=order.rate_per_second,
        pending=sagas,
    )


async def stop_sweep(service: Service, request: Request) -> Answer:
    """Act on no further saga; it can go on later."""
    return await _change(service, request, SweepState.STOPPED)


async def resume_sweep(service: Service, request: Request) -> Answer:
    """Let a sweep that was stopped go on."""
    return await _change(service, request, SweepState.RUNNING)


async def _change(service: Service, request: Request, state: SweepState) -> Answer:
    number = _number(request)
    change = await read_order(service, request, SweepChange, "give the reason")
    check_signed(change, service.limits.reason_chars_max)
    sweep = await _found(service, number)
    _permit(request, sweep.verb)
    key = act_key_of(request, change)
    replayed: tuple[tuple[str, str], ...] = ()
    if sweep.state is not SweepState.DONE:
        try:
            await service.engine.set_sweep(
                sweep, state, actor=change.actor, reason=change.reason, act_key=key
            )
        except ActRepeated:
            replayed = (REPLAYED,)
    return json_answer(await _shown(service, number), *replayed)


async def _order(service: Service, request: Request) -> SweepOrder:
    order = await read_order(
        service, request, SweepOrder, "give verb, reason, and where or saga_ids"
    )
    _permit(request, order.verb)
    if bool(order.where) is bool(order.saga_ids):
        raise orders.not_understood(
            "it names sagas by both `where` and `saga_ids`, or by neither",
            "give one of them: a verb for every saga there is has to be said so",
        )
    check_signed(order, service.limits.reason_chars_max - SWEEP_CHARS)
    check_step(order.step)
    check_rate(order.rate_per_second)
    return order


def _permit(request: Request, verb: SweepVerb) -> None:
    """Raise 403 for a caller that may not do this verb to one saga either."""
    if verb not in OF_OPERATORS:
        permit(request.about.principal, ADMINS)


async def _named(service: Service, order: SweepOrder) -> tuple[list[str], int]:
    """The sagas that the filter names now, and how many a purge leaves for another one.

    A purge takes the first: its sagas are gone then, so that the same order names the next ones.
    """
    if order.verb is not SweepVerb.PURGE:
        return await _ids(service, order, SWEEP_SAGAS_MAX), 0
    found = await _ids(service, order, 2 * SWEEP_SAGAS_MAX - 1)
    return found[:SWEEP_SAGAS_MAX], len(found[SWEEP_SAGAS_MAX:])


async def _ids(service: Service, order: SweepOrder, most: int) -> list[str]:
    """The sagas that the filter names now; one more than `most` where there are more."""
    query = {name: [v] if isinstance(v, str) else v for name, v in order.where.items()}
    _refuse_pages(query)
    which = filter_of(service, query, PAGE)
    found: list[str] = []
    while len(found) <= most:
        page = await service.engine.page(_behind(which, found))
        found += [row.id for row in page]
        if len(page) < PAGE:
            break
    return found[: most + 1]


def _behind(which: Filter, found: Sequence[str]) -> Filter:
    return msgspec.structs.replace(which, after=found[-1]) if found else which


def _refuse_pages(query: Mapping[str, Sequence[str]]) -> None:
    if pages := sorted({"after", "limit"} & set(query)):
        raise not_understood(f"{pages[0]} belongs to a page of a list, and not to a sweep")


def _words(order: SweepOrder) -> str:
    """The words that name the sagas, for the sweep and the audit, which outlive them.

    A business number stands there by its name alone: its value is of a person, and is erased.
    """
    if order.saga_ids:
        return f"{len(order.saga_ids)} sagas by id"
    where = {name: _without_value(v) if name == "number" else v for name, v in order.where.items()}
    return msgspec.json.encode(where).decode()


def _without_value(given: str | list[str]) -> str | list[str]:
    if isinstance(given, str):
        return f"{given.partition(':')[0]}:…"
    return [f"{each.partition(':')[0]}:…" for each in given]


def _number(request: Request) -> int:
    text = request.parameters["number"]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _no_sweep(text)
    return int(text)


async def _found(service: Service, number: int) -> Sweep:
    found = await service.engine.sweeps(1, number)
    if not found:
        raise _no_sweep(str(number))
    return found[0]


async def _shown(service: Service, number: int) -> SweepView:
    sweep = await _found(service, number)
    refused = await service.engine.sweep_sagas(number, SweepEnd.REFUSED, REFUSED_SHOWN)
    return msgspec.structs.replace(
        sweep_view(sweep),
        first_refused=[SweepSagaView(saga_id=saga_id, detail=why) for saga_id, why in refused],
    )


def sweep_view(sweep: Sweep) -> SweepView:
    """A sweep as people see it."""
    return SweepView(
        number=sweep.number or None,
        at=format_instant(sweep.at),
        actor=sweep.actor,
        verb=sweep.verb.value,
        reason=sweep.reason,
        step=sweep.step or None,
        where=sweep.where,
        rate_per_second=sweep.rate_per_second,
        state=sweep.state.value,
        sagas=sweep.sagas,
        pending=sweep.pending,
        done=sweep.done,
        refused=sweep.refused,
    )


def _no_sweep(text: str) -> WireError:
    return WireError(404, "No such sweep", f"there is no sweep {text}", hint="GET /sweeps")
