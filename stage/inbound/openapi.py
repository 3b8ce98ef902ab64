"""The OpenAPI 3.1 document of the protocol as this stage speaks it, and a page that shows it."""

from __future__ import annotations

from html import escape
from typing import Any

from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.wire import headers as h
from stage.wire import schema
from stage.wire.descriptor import Descriptor
from stage.wire.problem import CONTENT_TYPE

HTML = ("Content-Type", "text/html; charset=utf-8")
PROBLEMS = {
    "400": "Malformed; nothing was executed",
    "404": "Never seen, or no such endpoint",
    "408": "The body did not arrive in time",
    "413": "Larger than the limits allow",
    "415": "Not JSON in UTF-8",
    "422": "Well-formed but not accepted, or another payload under the same id",
    "500": "A defect; the outcome is unknown",
    "503": "Not now; nothing was executed, see Retry-After",
}
EXECUTE_PROBLEMS = {
    "409": "Over: refused or failed, and nothing of it stands",
    "410": "Compensated or tombstoned here; it will never run",
    "504": "The deadline was over on arrival",
}


def document(descriptor: Descriptor | None = None) -> dict[str, Any]:
    """The document; with a descriptor, its title and payload are those of that stage."""
    name = descriptor.name if descriptor is not None else "stage"
    saga_id = {
        "name": "saga_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._~:-]{1,128}$"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Stage {name}", "version": "1", "license": {"name": "Apache-2.0"}},
        "paths": {
            "/sagas": {
                "post": {
                    "summary": "Run this stage for the saga in the body",
                    "operationId": "execute",
                    "parameters": [_budget(), _prefer()],
                    "requestBody": _body("Envelope", required=True),
                    "responses": {
                        "200": _answer("Done here and downstream", "Executed"),
                        "202": _answer("Durably accepted, still running", "Pending"),
                        **_problems({**PROBLEMS, **EXECUTE_PROBLEMS}, but=("404",)),
                    },
                },
                "get": {
                    "summary": "List sagas",
                    "operationId": "list",
                    "parameters": [
                        _query("state", {"type": "string"}),
                        _query("parked", {"type": "string", "enum": ["true", "false"]}),
                        _query("after", {"type": "string"}),
                        _query("limit", {"type": "integer", "minimum": 1, "maximum": 500}),
                    ],
                    "responses": {
                        "200": _answer("A page", "Page"),
                        **_problems(PROBLEMS, only=("400", "500", "503")),
                    },
                },
            },
            "/sagas/{saga_id}": {
                "parameters": [saga_id],
                "get": {
                    "summary": "State, outcome, steps and next action of one saga",
                    "operationId": "look",
                    "parameters": [
                        _query("view", {"type": "string", "enum": ["journal", "plan", "chain"]}),
                        _prefer(),
                    ],
                    "responses": {
                        "200": _answer("The saga", "Saga"),
                        **_problems(PROBLEMS, only=("400", "404", "422", "500", "503")),
                    },
                },
            },
            "/sagas/{saga_id}/compensate": {
                "parameters": [saga_id],
                "post": {
                    "summary": "Undo it; asked by upstream, downstream, an orchestrator, a person",
                    "operationId": "compensate",
                    "parameters": [_prefer()],
                    "requestBody": _body("CompensateRequest", required=False),
                    "responses": {
                        "200": _answer("Nothing of it stands", "Pending"),
                        "202": _answer("Durably accepted, still working", "Pending"),
                        **_problems(
                            {**PROBLEMS, "409": "Cannot: the body lists what stands"}, but=("404",)
                        ),
                    },
                },
            },
        },
        "components": {
            "schemas": {
                "Envelope": schema.ENVELOPE_SCHEMA,
                "Executed": schema.EXECUTED_SCHEMA,
                "CompensateRequest": schema.COMPENSATE_REQUEST_SCHEMA,
                "Problem": schema.PROBLEM_SCHEMA,
                "Pending": {
                    "type": "object",
                    "required": ["saga_id", "outcome"],
                    "properties": {"saga_id": {"type": "string"}, "outcome": {"type": "string"}},
                },
                "Saga": {"type": "object"},
                "Page": {"type": "object"},
            }
        },
    }


async def openapi(service: Service, request: Request) -> Answer:
    """The document as JSON."""
    return json_answer(document(service.descriptor))


async def docs(service: Service, request: Request) -> Answer:
    """The document as a page without scripts."""
    spec = document(service.descriptor)
    rows = []
    for path, item in spec["paths"].items():
        for method, operation in item.items():
            if method == "parameters":
                continue
            codes = "".join(
                f"<tr><td>{escape(code)}</td><td>{escape(answer['description'])}</td></tr>"
                for code, answer in operation["responses"].items()
            )
            rows.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
                f"<p>{escape(operation['summary'])}</p><table>{codes}</table>"
            )
    title = escape(spec["info"]["title"])
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.1rem 1rem .1rem 0;vertical-align:top}h2{font-size:1.1rem}</style>"
        f"<h1>{title}</h1><p>The machine-readable form is <a href=openapi.json>openapi.json</a>."
        f"</p>{''.join(rows)}</html>"
    )
    return Answer(headers=(HTML,), body=page.encode())


def _body(name: str, *, required: bool) -> dict[str, Any]:
    content = {h.CONTENT_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {"required": required, "content": content}


def _answer(description: str, name: str) -> dict[str, Any]:
    content = {h.CONTENT_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    return {"description": description, "content": content}


def _problems(
    codes: dict[str, str], *, only: tuple[str, ...] = (), but: tuple[str, ...] = ()
) -> dict[str, Any]:
    content = {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        code: {"description": text, "content": content}
        for code, text in sorted(codes.items())
        if (not only or code in only) and code not in but
    }


def _query(name: str, kind: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": kind}


def _prefer() -> dict[str, Any]:
    return {
        "name": h.PREFER,
        "in": "header",
        "required": False,
        "description": "RFC 7240: wait=SECONDS, respond-async",
        "schema": {"type": "string"},
    }


def _budget() -> dict[str, Any]:
    return {
        "name": h.SAGA_BUDGET_MS,
        "in": "header",
        "required": False,
        "description": "Milliseconds that are left for the saga; the deadline holds where smaller",
        "schema": {"type": "integer", "minimum": 0},
    }
