"""Reconcile: sagas that neighbours know and a restored database lacks, and what becomes of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import msgspec

from stage.console import draw
from stage.console.asks import Problem, Reader
from stage.console.forms import Form, read_form, signed
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.ports.reconcile import UNREADABLE
from stage.wire.problem import WireError
from stage.wire.views import NowView, ReconcileView


async def reconcile(service: Service, request: Request) -> Answer:
    """Whether the database awaits a release, and the form that asks the neighbours."""
    adopted = request.query_values().get("adopted", [""])[0]
    return await _page(service, request, adopted=adopted[:8] if adopted.isdigit() else "")


async def press_reconcile(service: Service, request: Request) -> Answer:
    """Show what the neighbours list, or take over what the person chose."""
    reader = Reader(service, request)
    form = await read_form(request)
    asked: dict[str, Any] = {"without": _without(form.text("without"))}
    if form.text("since"):
        asked["since"] = form.text("since")
    if form.acts:
        answer = await reader.post("/reconcile", _order(reader, form, asked))
    else:
        answer = await reader.post("/reconcile", {**asked, "dry_run": True})
    if isinstance(answer, Problem):
        return draw.page(
            "problem.html", request, service.clock.now(), answer.status, problem=answer
        )
    found = msgspec.convert(answer, ReconcileView)
    if not form.acts:
        return await _page(
            service, request, found=found, since=form.text("since"), without=form.text("without")
        )
    if found.sweep is not None:
        return draw.to(request, f"/sweeps/{found.sweep}")
    return draw.to(request, f"/reconcile?{urlencode({'adopted': found.adopted})}")


async def _page(
    service: Service,
    request: Request,
    *,
    found: ReconcileView | None = None,
    since: str = "",
    without: str = "",
    adopted: str = "",
) -> Answer:
    stands = await Reader(service, request).get(NowView, "/now")
    return draw.page(
        "reconcile.html",
        request,
        service.clock.now(),
        stands=stands,
        found=found,
        since=since,
        without=without,
        adopted=adopted,
        unreadable=UNREADABLE,
    )


def _order(reader: Reader, form: Form, asked: dict[str, Any]) -> dict[str, Any]:
    """The order to take over the chosen ones, or all; or to keep that nothing is missing."""
    compensate, named = form.text("then") == "compensate", bool(form.text("under_these_names"))
    order = signed(reader, form, **asked, compensate=compensate, under_these_names=named)
    match form.text("which"):
        case "chosen":
            return {**order, "saga_ids": form.texts("saga_id")}
        case "all":
            return {**order, "no_other_shard": True}
        case _:
            return order


def _without(text: str) -> dict[str, str]:
    """Neighbours that are left out: NAME=REASON, several behind semicolons."""
    found = {}
    for each in filter(None, (part.strip() for part in text.split(";"))):
        name, _, reason = each.partition("=")
        if not reason.strip():
            raise WireError(
                400,
                "Left out without a reason",
                f"{each!r} is not NAME=REASON",
                hint="say why that neighbour is not asked, such as shipping=its disk burnt",
            )
        found[name.strip()] = reason.strip()
    return found
