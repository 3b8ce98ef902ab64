"""Parked: sagas that wait for a person, by cause, step and peer; and a verb for many of them."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl

from stage.console import draw
from stage.console.asks import Problem, Reader
from stage.console.forms import Form, read_form, signed
from stage.core.states import ParkCause, SagaState
from stage.core.sweep_verbs import SWEEP_RATE_MAX, SweepVerb
from stage.inbound.filters import NARROWS
from stage.inbound.problems import answer_of_error
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.envelope import path_of_saga
from stage.wire.problem import WireError
from stage.wire.views import GroupsView, SagaPage, SagaView, SweepView

PAGE: Final = 50
"""Sagas on a page: each is asked for what stands of it."""
LIST_MAX: Final = 500
"""Up to so many sagas of a preview are named in the order itself, so that it is for no others."""
RATE: Final = 10.0

Query = list[tuple[str, str]]


async def parked(service: Service, request: Request) -> Answer:
    """The groups, and a page of the sagas that the query narrows to; by itself those parked."""
    reader = Reader(service, request)
    given = request.query_values()
    where = [(n, v) for n in NARROWS for v in given.get(n, ()) if v] or [("parked", "true")]
    pages = [("limit", str(PAGE)), *(("after", v) for v in given.get("after", ()))]
    found = await reader.get(SagaPage, "/sagas", [*where, *pages])
    sagas = [await _whole(reader, row) for row in found.sagas]
    return draw.page(
        "parked.html",
        request,
        service.clock.now(),
        groups=(await reader.get(GroupsView, "/groups")).groups,
        sagas=sagas,
        where=where,
        narrowed=dict(where),
        next=None if found.next is None else [*where, ("after", found.next)],
        shows=any(saga.shows for saga in sagas),
        verbs=list(SweepVerb),
        causes=list(ParkCause),
        states=list(SagaState),
        rate=RATE,
        rate_max=SWEEP_RATE_MAX,
    )


async def _whole(reader: Reader, listed: SagaView) -> SagaView:
    """The saga with what stands of it; as it was listed where it cannot be asked for any more.

    It may be dropped since, or only another release can read it: it ends no page of others.
    """
    try:
        return await reader.get(SagaView, path_of_saga(listed.saga_id))
    except Exception as error:
        if answer_of_error(reader.request, error) is None:
            raise
        return listed


async def press_parked(service: Service, request: Request) -> Answer:
    """Show the sagas that a verb would be done to, or begin it and show its progress."""
    reader = Reader(service, request)
    form = await read_form(request)
    order = signed(
        reader, form, verb=form.text("verb"), rate_per_second=_rate(form), dry_run=not form.acts
    )
    if form.text("step"):
        order["step"] = form.text("step")
    if form.text("which") == "all":
        order["where"] = _where(form.text("where"))
    else:
        order["saga_ids"] = form.texts("saga_id")
    answer = await reader.post("/sweeps", order, form.key if form.acts else "")
    if isinstance(answer, Problem):
        return draw.page(
            "problem.html", request, service.clock.now(), answer.status, problem=answer
        )
    if form.acts and answer["number"] is not None:
        return draw.to(request, f"/sweeps/{answer['number']}")
    ids: list[str] = answer["first"]
    fields = form.rest("press", "key")
    if answer["sagas"] == len(ids) <= LIST_MAX:
        fields = [
            *form.rest("press", "key", "which", "where", "saga_id"),
            *(("saga_id", saga_id) for saga_id in ids),
        ]
    return draw.page(
        "many.html", request, service.clock.now(), sweep=answer, ids=ids, fields=fields
    )


def _rate(form: Form) -> float:
    try:
        return float(form.text("rate") or RATE)
    except ValueError:
        raise WireError(
            400, "Rate not understood", "the rate is no number", hint="sagas a second, such as 10"
        ) from None


def _where(text: str) -> dict[str, list[str]]:
    """The filter of the page that the form was on."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(text):
        found.setdefault(name, []).append(value)
    return found


async def sweep(service: Service, request: Request) -> Answer:
    """One sweep with its progress."""
    number = request.parameters["number"]
    found = await Reader(service, request).get(SweepView, f"/sweeps/{number}")
    return draw.page("sweep.html", request, service.clock.now(), sweep=found)


async def press_sweep(service: Service, request: Request) -> Answer:
    """Stop a sweep, or let it go on: neither needs a preview, since each takes the other back."""
    reader = Reader(service, request)
    number = request.parameters["number"]
    form = await read_form(request)
    change = "stop" if form.text("press") == "stop" else "resume"
    answer = await reader.post(f"/sweeps/{number}/{change}", signed(reader, form), form.key)
    if isinstance(answer, Problem):
        return draw.page(
            "problem.html", request, service.clock.now(), answer.status, problem=answer
        )
    return draw.to(request, f"/sweeps/{number}")
