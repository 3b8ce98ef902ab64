"""The aiohttp application: routes and nothing else."""

from __future__ import annotations

from aiohttp import web

from stage.inbound.compensate import compensate
from stage.inbound.execute import execute
from stage.inbound.middleware import edge_middleware
from stage.inbound.openapi import docs, openapi
from stage.inbound.platform import descriptor, healthz, metrics, readyz
from stage.inbound.sagas import list_sagas, look
from stage.inbound.service import EDGE, Edge
from stage.inbound.verbs import operate


def make_app() -> web.Application:
    """The application without its keys; `EDGE` must be set before it starts."""
    app = web.Application(middlewares=[edge_middleware])
    app.router.add_post("/sagas", execute)
    app.router.add_get("/sagas", list_sagas, allow_head=False)
    app.router.add_get("/sagas/{saga_id}", look, name="saga", allow_head=False)
    app.router.add_post("/sagas/{saga_id}/compensate", compensate)
    app.router.add_post("/sagas/{saga_id}/{verb:retry|settle|resolve|forget}", operate)
    app.router.add_get("/.well-known/stage", descriptor)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/docs", docs)
    return app


__all__ = ["EDGE", "Edge", "make_app"]
