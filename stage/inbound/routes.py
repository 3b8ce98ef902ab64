"""The table of endpoints, which every adapter, the OpenAPI document and the tests read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

import msgspec

from stage.inbound.compensate import compensate
from stage.inbound.console import page
from stage.inbound.execute import execute
from stage.inbound.now import now
from stage.inbound.openapi import docs, openapi
from stage.inbound.overview import audit, groups, peers
from stage.inbound.pauses import end_pause, list_pauses, pause
from stage.inbound.platform import descriptor, healthz, metrics, readyz
from stage.inbound.principal import Who
from stage.inbound.reconcile import reconcile
from stage.inbound.request import Answer, Request
from stage.inbound.sagas import list_sagas, query_saga
from stage.inbound.service import Service
from stage.inbound.sweeps import (
    begin_sweep,
    get_sweep,
    list_sweeps,
    resume_sweep,
    stop_sweep,
)
from stage.inbound.verbs import abandon, approve, erase, forget, reject, resolve, retry, settle
from stage.inbound.webhooks import webhook

Endpoint = Callable[[Service, Request], Awaitable[Answer]]


class Route(msgspec.Struct, frozen=True):
    """One endpoint. `{name}` in the template stands for one part of a path, not empty.

    `who` may call it. `protocol` says that neighbours do, so that it stays at the public port
    where operators have one of their own. `json` says that what is posted has to be JSON,
    `form` that it has to be a form of a page of our own.
    """

    method: str
    template: str
    endpoint: Endpoint
    name: str
    who: frozenset[Who]
    protocol: bool = False
    json: bool = True
    form: bool = False


def _page(name: str, template: str, who: frozenset[Who]) -> Route:
    """A page of the console, or for operators one of its forms."""
    if who is _VIEWERS:
        return Route("GET", f"/console{template}", page(name), f"console_{name}", who)
    return Route(
        *("POST", f"/console{template}", page(name), f"console_{name}", who),
        json=False,
        form=True,
    )


_ANYONE = frozenset({Who.ANYONE})
_SHOWN = frozenset({Who.UPSTREAM, Who.DOWNSTREAM, Who.VIEWER})
_COMPENSATES = frozenset({Who.UPSTREAM, Who.DOWNSTREAM, Who.OPERATOR})
_VIEWERS = frozenset({Who.VIEWER})
_OPERATORS = frozenset({Who.OPERATOR})
_ADMINS = frozenset({Who.ADMIN})

ROUTES = (
    Route("POST", "/sagas", execute, "execute", frozenset({Who.UPSTREAM}), protocol=True),
    Route("GET", "/sagas", list_sagas, "list", _SHOWN, protocol=True),  # ?since= is the protocol's
    Route("GET", "/sagas/{saga_id}", query_saga, "query", _SHOWN, protocol=True),
    Route(
        *("POST", "/sagas/{saga_id}/compensate", compensate, "compensate", _COMPENSATES),
        protocol=True,
    ),
    # Nobody but the author knows how an API shows that a webhook is its own, so that anyone may
    # knock, and the author's function verifies it (decision 0067).
    Route(
        *("POST", "/webhooks/{external}", webhook, "webhook", _ANYONE), protocol=True, json=False
    ),
    Route("POST", "/sagas/{saga_id}/retry", retry, "retry", _OPERATORS),
    Route("POST", "/sagas/{saga_id}/approve", approve, "approve", _OPERATORS),
    Route("POST", "/sagas/{saga_id}/reject", reject, "reject", _OPERATORS),
    Route("POST", "/sagas/{saga_id}/settle", settle, "settle", _ADMINS),
    Route("POST", "/sagas/{saga_id}/resolve", resolve, "resolve", _ADMINS),
    Route("POST", "/sagas/{saga_id}/abandon", abandon, "abandon", _ADMINS),
    Route("POST", "/sagas/{saga_id}/forget", forget, "forget", _ADMINS),
    Route("POST", "/sagas/{saga_id}/erase", erase, "erase", _ADMINS),
    Route("GET", "/now", now, "now", _VIEWERS),
    Route("GET", "/groups", groups, "groups", _VIEWERS),
    Route("GET", "/peers", peers, "peers", _VIEWERS),
    Route("GET", "/audit", audit, "audit", _VIEWERS),
    Route("GET", "/pauses", list_pauses, "pauses", _VIEWERS),
    Route("POST", "/pauses", pause, "pause", _OPERATORS),
    Route("POST", "/pauses/end", end_pause, "resume", _OPERATORS),
    Route("GET", "/sweeps", list_sweeps, "sweeps", _VIEWERS),
    Route("POST", "/sweeps", begin_sweep, "begin_sweep", _OPERATORS),
    Route("GET", "/sweeps/{number}", get_sweep, "sweep", _VIEWERS),
    Route("POST", "/sweeps/{number}/stop", stop_sweep, "stop_sweep", _OPERATORS),
    Route("POST", "/sweeps/{number}/resume", resume_sweep, "resume_sweep", _OPERATORS),
    Route("POST", "/reconcile", reconcile, "reconcile", _OPERATORS),
    Route("GET", "/.well-known/stage", descriptor, "descriptor", _SHOWN, protocol=True),
    Route("GET", "/healthz", healthz, "healthz", _ANYONE),
    Route("GET", "/readyz", readyz, "readyz", _ANYONE),
    Route("GET", "/metrics", metrics, "metrics", frozenset({Who.PLATFORM})),
    Route("GET", "/openapi.json", openapi, "openapi", _SHOWN),
    Route("GET", "/docs", docs, "docs", _SHOWN),
    _page("now", "", _VIEWERS),
    _page("parked", "/parked", _VIEWERS),
    _page("sweep", "/sweeps/{number}", _VIEWERS),
    _page("saga", "/sagas/{saga_id}", _VIEWERS),
    _page("chain", "/sagas/{saga_id}/chain", _VIEWERS),
    _page("peers", "/peers", _VIEWERS),
    _page("audit", "/audit", _VIEWERS),
    _page("reconcile", "/reconcile", _VIEWERS),
    _page("search", "/search", _VIEWERS),
    _page("live", "/live", _VIEWERS),
    _page("file", "/files/{name}", _VIEWERS),
    _page("press_peers", "/peers", _OPERATORS),
    _page("press_parked", "/parked", _OPERATORS),
    _page("press_reconcile", "/reconcile", _OPERATORS),
    _page("press_sweep", "/sweeps/{number}", _OPERATORS),
    _page("press_saga", "/sagas/{saga_id}", _OPERATORS),
)


def open_route(endpoint: Endpoint) -> Route:
    """The route for a path that is not ours: one that nobody serves, or that the author added."""
    return Route("", "", endpoint, "other", _ANYONE, protocol=True, json=False)


HEAD_TOO = frozenset({"healthz", "readyz"})
"""The names of routes that are also asked for without their body: load balancers do."""


class Found(msgspec.Struct, frozen=True):
    """The route of a request with the parts of its path that the template names."""

    route: Route
    parameters: Mapping[str, str]


def find(method: str, path: str) -> Found | tuple[str, ...]:
    """The route for a method and a path with its escapes.

    Without one, the methods that the path allows: none where no template fits it.
    """
    parts = path.split("/")
    allowed: list[str] = []
    for template, routes in _TEMPLATES:
        parameters = _parameters(template, parts)
        if parameters is None:
            continue
        for route in routes:
            methods = methods_of(route)
            if method in methods:
                return Found(route, parameters)
            allowed += methods
    return tuple(sorted(allowed))


def methods_of(route: Route) -> tuple[str, ...]:
    """The methods that the route is asked by; a server leaves the body out of an answer to HEAD."""
    return (route.method, "HEAD") if route.name in HEAD_TOO else (route.method,)


def _parameters(template: list[str], parts: list[str]) -> dict[str, str] | None:
    if len(template) != len(parts):
        return None
    parameters = {}
    for name, part in zip(template, parts, strict=True):
        if name.startswith("{"):
            if not part:
                return None
            parameters[name[1:-1]] = unquote(part)
        elif name != part and ("%" not in part or name != unquote(part)):
            return None  # an escape of what needs none leaves a path the same
    return parameters


def _by_template() -> list[tuple[list[str], list[Route]]]:
    routes: dict[str, list[Route]] = {}
    for route in ROUTES:
        routes.setdefault(route.template, []).append(route)
    return [(template.split("/"), of_one) for template, of_one in routes.items()]


_TEMPLATES = _by_template()
