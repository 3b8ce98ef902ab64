"""Around every request: a server span, the ids in the headers, and a problem for every error."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from stage.core.errors import StoreUnavailable
from stage.inbound.caller import not_here, permit
from stage.inbound.front_door import check_form, check_page, check_posted
from stage.inbound.problems import (
    answer_of_error,
    answer_of_order,
    defect,
    of_status,
    problem_answer,
)
from stage.inbound.request import Answer, Door, Request
from stage.inbound.routes import Found, Route, find, open_route
from stage.inbound.service import Service
from stage.wire import headers as h
from stage.wire.envelope import SAGA_ID_RE
from stage.wire.http import SAFE_METHODS

UNKNOWN_ROUTE = "/?"
"""The route in spans and metrics of a request that fits no template."""


async def dispatch(service: Service, request: Request) -> Answer:
    """Answer a request by its method and path, without any server. Raises CancelledError only."""
    found = find(request.method, request.path)
    if isinstance(found, Found):
        request = replace(request, parameters=found.parameters)
        route = found.route
        return await answer(service, request, route, request.prefix + route.template)
    allowed = found

    async def unrouted(_service: Service, request: Request) -> Answer:
        if not allowed:
            return problem_answer(request, of_status(404, "Not Found"))
        problem = of_status(405, "Method Not Allowed")
        return problem_answer(request, problem, ("Allow", ",".join(allowed)))

    return await answer(service, request, open_route(unrouted), UNKNOWN_ROUTE)


async def answer(service: Service, request: Request, route: Route, path: str) -> Answer:
    """The answer of an endpoint, or the problem for what it raised.

    `path` is the template with the paths that it is mounted under, for spans and logs. Raises
    CancelledError only: the process stops, or the caller has gone.
    """
    about = request.about
    named = request.parameters.get("saga_id", "")
    if named and SAGA_ID_RE.fullmatch(named):
        about.saga_id = named
    principal = about.principal = await service.callers.identify(request)
    span = about.span = service.observer.request(
        request.method,
        path,
        list(request.headers.items()),
        named,
        path=request.prefix + request.path,
        scheme=request.scheme,
        joined=principal.known,
    )
    service.observer.bind(named, span.context)
    raised = ""
    try:
        _admit(service, request, route)
        answered = await route.endpoint(service, request)
    except asyncio.CancelledError:
        span.end("cancelled")
        raise
    except Exception as error:
        known = _known(service, request, route, error)
        if known is None:
            raised = type(error).__name__
            where = f"{request.method} {path}"
            service.observer.defect(where, about.saga_id, span.context, error)
            known = problem_answer(request, defect(f"{raised} in {path}"))
        answered = known
    span.end(str(answered.status), raised)
    # Without what it is mounted under, which a host may fill with names from outside.
    service.answered(request.method, path.removeprefix(request.prefix), answered.status)
    return _with_headers(request.method, answered, about.saga_id, span.trace_id)


def _known(service: Service, request: Request, route: Route, error: Exception) -> Answer | None:
    """The answer for an error that is no defect.

    An order of a person that meets a database which is away may have done so behind its own unit,
    or a copy of it was done before. A saga that is offered meets it before its unit, or in doubt.
    """
    order = request.method == "POST" and not route.protocol
    if order and isinstance(error, StoreUnavailable):
        return answer_of_order(request, error, service.jitter())
    return answer_of_error(request, error, service.jitter())


def _admit(service: Service, request: Request, route: Route) -> None:
    """Refuse a request that the table of routes does not allow, before its body is read."""
    service.hosts.check(request)
    check_page(request)
    if request.door is Door.PUBLIC and not route.protocol:
        raise not_here()
    permit(request.about.principal, route.who)
    if route.json:
        check_posted(request)
    if route.form:
        check_form(request)


def _with_headers(method: str, answered: Answer, saga_id: str, trace_id: str) -> Answer:
    """The answer with the ids of the saga and the trace in its headers, where they are known.

    A gateway keeps no answer to a look-up: a saga that is not there comes a moment later.
    """
    added = []
    if method in SAFE_METHODS and not any(name == h.CACHE_CONTROL for name, _ in answered.headers):
        added.append((h.CACHE_CONTROL, "no-store"))
    if trace_id:
        added.append((h.TRACE_ID, trace_id))
    if saga_id:
        added.append((h.SAGA_ID, saga_id))
    if not added:
        return answered
    return Answer(
        status=answered.status,
        headers=(*answered.headers, *added),
        body=answered.body,
        close=answered.close,
    )
