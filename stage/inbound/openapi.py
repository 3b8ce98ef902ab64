"""The OpenAPI 3.1 document of the protocol as this stage speaks it, and a page that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from html import escape
from typing import Any

import msgspec

from stage.inbound.neighbour_operations import NEIGHBOURS
from stage.inbound.operations import (
    AGAIN,
    ANSWER_HEADERS,
    AT_A_LOOK,
    NO_NAME,
    OPERATIONS,
    PROBLEM_HEADERS,
    STATUS_HEADERS,
    Operation,
)
from stage.inbound.pauses import PauseOrder, ResumeOrder
from stage.inbound.platform import Status
from stage.inbound.reconcile import ReconcileOrder
from stage.inbound.request import JSON, Answer, Request
from stage.inbound.service import Service
from stage.inbound.sweeps import SweepChange, SweepOrder
from stage.inbound.verbs import Order
from stage.inbound.views import PlanView
from stage.wire import headers as h
from stage.wire import schema
from stage.wire.chain import ChainView
from stage.wire.descriptor import Descriptor
from stage.wire.outcome import Outcome
from stage.wire.problem import CONTENT_TYPE
from stage.wire.shared import SharedPage, SharedSaga
from stage.wire.views import (
    ActPage,
    ActView,
    DifferenceView,
    GroupsView,
    GroupView,
    HourView,
    JournalView,
    MissingView,
    NowView,
    PausesView,
    PauseView,
    PeersView,
    PeerView,
    PlacesView,
    ReconcileView,
    RefusalView,
    SagaPage,
    SagaView,
    Standing,
    SweepSagaView,
    SweepsView,
    SweepView,
    VerbsView,
    VerbView,
    WordView,
)

HTML = ("Content-Type", "text/html; charset=utf-8")
TOKEN = "token"  # noqa: S105 - the name of a scheme
REFERENCE = "#/components/schemas/"
NAMES = {
    SagaView: "Saga",
    SagaPage: "Page",
    SharedPage: "SharedPage",
    SharedSaga: "SharedSaga",
    JournalView: "Journal",
    VerbView: "Verb",
    VerbsView: "Verbs",
    NowView: "Now",
    HourView: "Hour",
    PlacesView: "Places",
    RefusalView: "Refusal",
    GroupsView: "Groups",
    GroupView: "Group",
    ActPage: "Acts",
    PeersView: "Peers",
    PeerView: "Peer",
    PausesView: "Pauses",
    SweepsView: "Sweeps",
    SweepView: "Sweep",
    SweepSagaView: "SweepSaga",
    SweepOrder: "SweepOrder",
    SweepChange: "SweepChange",
    PauseView: "Pause",
    PauseOrder: "PauseOrder",
    ResumeOrder: "ResumeOrder",
    ActView: "Act",
    PlanView: "Plan",
    ChainView: "Chain",
    Standing: "Standing",
    Order: "Order",
    ReconcileOrder: "ReconcileOrder",
    ReconcileView: "Reconcile",
    MissingView: "Missing",
    WordView: "Word",
    DifferenceView: "Difference",
    Descriptor: "Descriptor",
    Status: "Status",
}
"""The structs that are sent and read, by their names in the document."""

HEEDED = (202, 429, 503)
"""A stage waits as long as the `Retry-After` of these says, whoever answers."""
RECEIVED = ("Order", "PauseOrder", "ResumeOrder", "SweepOrder", "SweepChange", "ReconcileOrder")
"""The bodies that are read, and never sent."""

Schema = dict[str, Any]


def document(descriptor: Descriptor | None = None) -> dict[str, Any]:
    """The document; with a descriptor, its title and payload are those of that stage."""
    name = descriptor.name if descriptor is not None else "stage"
    paths: dict[str, Any] = {}
    for (method, template), operation in OPERATIONS.items():
        item = paths.setdefault(template, {})
        if "{saga_id}" in template:
            item["parameters"] = [_saga_id_parameter()]
        item[method.lower()] = _operation(method, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Stage {name}", "version": "1", "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "webhooks": _webhooks(),
        "components": {
            "schemas": _schemas(descriptor),
            "securitySchemes": {TOKEN: {"type": "http", "scheme": "bearer"}},
        },
    }


def _saga_id_parameter() -> Schema:
    return {"name": "saga_id", "in": "path", "required": True, "schema": _to("SagaId")}


def _operation(method: str, operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": list(operation.parameters),
        "responses": _responses(method, operation),
    }
    if not operation.anyone:
        # A stage shows a token to each neighbour that its operator has given it one for.
        described["security"] = [{}, {TOKEN: []}] if operation.there else [{TOKEN: []}]
    if operation.body:
        content = {h.CONTENT_JSON: {"schema": _to(operation.body)}}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    return described


def _responses(method: str, operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    usual = {} if operation.there else ANSWER_HEADERS
    usual = {**usual, **(AT_A_LOOK if method == "GET" else {})}
    for status, (description, names) in operation.answers.items():
        # Not oneOf: a saga without steps is a plan too, which allows what it does not name.
        shown = _to(names[0]) if len(names) == 1 else {"anyOf": [_to(name) for name in names]}
        responses[str(status)] = {
            "description": description,
            "headers": _headers({**usual, **_of_status(operation, status)}),
            "content": {operation.content_type: {"schema": shown}},
        }
    problems = operation.problems if operation.anyone else {**operation.problems, **NO_NAME}
    for status, description in sorted(problems.items()):
        responses[str(status)] = {
            "description": description,
            "headers": _headers({**usual, **_of_problem(operation, status)}),
            "content": {CONTENT_TYPE: {"schema": _to("OwnWord" if operation.there else "Problem")}},
        }
    return responses


def _of_status(operation: Operation, status: int) -> Mapping[str, str]:
    """The headers of an answer beside the usual ones."""
    if operation.there:
        return AGAIN if status in HEEDED else {}
    return STATUS_HEADERS.get((operation.id, status), {})


def _of_problem(operation: Operation, status: int) -> Mapping[str, str]:
    own = {} if operation.there else PROBLEM_HEADERS.get(status, {})
    return {**own, **_of_status(operation, status)}


def _headers(described: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"description": description, "schema": {"type": "string"}}
        for name, description in described.items()
    }


def _webhooks() -> dict[str, Any]:
    """The requests of a stage to its neighbours, which have no address in this document."""
    webhooks: dict[str, Any] = {}
    for name, (method, path, operation) in NEIGHBOURS.items():
        described = _operation(method, operation)
        where = f"Sent as `{method} {path}` below the URL of the neighbour, which is configured."
        webhooks[name] = {method.lower(): {**described, "operationId": name, "description": where}}
    return webhooks


def _schemas(descriptor: Descriptor | None) -> dict[str, Schema]:
    """The schemas of all bodies, out of the structs that are encoded and decoded."""
    _, generated = msgspec.json.schema_components(list(NAMES), ref_template=REFERENCE + "{name}")
    names = {kind.__name__: name for kind, name in NAMES.items()}
    schemas = _named({names.get(name, name): value for name, value in generated.items()}, names)
    for received in RECEIVED:
        schemas[received] = _without_defaults(schemas[received])
    accepts = descriptor.accepts if descriptor is not None else {}
    adds = descriptor.adds if descriptor is not None else {}
    own = {descriptor.name: _to("Adds")} if descriptor is not None and adds else {}
    schemas |= {
        "SagaId": schema.SAGA_ID_SCHEMA,
        "Problem": schema.PROBLEM_SCHEMA,
        "CompensateRequest": schema.COMPENSATE_REQUEST_SCHEMA,
        "Envelope": _with_member(schema.ENVELOPE_SCHEMA, "data", _to("Data")),
        "Handed": _handed(own),
        "ExecutedThere": {**schema.EXECUTED_SCHEMA, "title": "ExecutedThere"},
        "OwnWord": {**schema.OWN_WORD_SCHEMA, "title": "OwnWord"},
        "Executed": {
            "title": "Executed",
            "type": "object",
            "required": ["saga_id", "outcome", "data"],
            "properties": {
                "saga_id": _to("SagaId"),
                "outcome": {"const": Outcome.EXECUTED.value},
                "data": {"type": "object", "properties": own},
            },
        },
        "Text": {"type": "string"},
        "Document": {"type": "object"},
    }
    schemas |= _hoisted("Data", accepts)
    if own:
        schemas |= _hoisted("Adds", adds)
    return schemas


def _handed(own: Schema) -> Schema:
    """The envelope that a stage sends on, with what it has added to `data`."""
    data = {"type": "object", "properties": own}
    return {**_with_member(schema.ENVELOPE_SCHEMA, "data", data), "title": "Handed"}


def _hoisted(name: str, root: Schema) -> dict[str, Schema]:
    """A schema with definitions of its own as components: `name`, and `name` before theirs."""
    definitions: dict[str, Schema] = root.get("$defs", {})
    local = {each: name + each for each in definitions}
    top = {member: value for member, value in root.items() if member != "$defs"}
    if top.keys() == {"$ref"}:
        top = definitions[top["$ref"].rpartition("/")[2]]
    schemas = {name: top or {"type": "object"}, **{local[n]: s for n, s in definitions.items()}}
    return _named(schemas, local)


def _named(schemas: dict[str, Schema], names: dict[str, str]) -> dict[str, Schema]:
    """Schemas that refer to each other by their names in the document.

    The title is the name too: generators of clients take titles for names of types.
    """
    return {name: {**_renamed(value, names), "title": name} for name, value in schemas.items()}


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """A schema whose references name components as the document does."""
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    if not isinstance(value, dict):
        return value
    renamed = {member: _renamed(each, names) for member, each in value.items()}
    if isinstance(reference := value.get("$ref"), str):
        name = reference.rpartition("/")[2]
        renamed["$ref"] = REFERENCE + names.get(name, name)
    return renamed


def _without_defaults(value: Schema) -> Schema:
    """A body that is only received: generators make a member with a default required."""
    members = {
        name: {word: each for word, each in member.items() if word != "default"}
        for name, member in value["properties"].items()
    }
    return {**value, "properties": members}


def _with_member(value: Schema, member: str, narrowed: Schema) -> Schema:
    return {**value, "properties": {**value["properties"], member: narrowed}}


def _to(name: str) -> Schema:
    return {"$ref": REFERENCE + name}


async def openapi(service: Service, request: Request) -> Answer:
    """The document as JSON."""
    body = _rendered(msgspec.json.encode(service.descriptor))
    return Answer(headers=(JSON,), body=body)


@lru_cache(maxsize=8)
def _rendered(descriptor: bytes) -> bytes:
    """The document as JSON, made once: that takes 8 ms, and anybody may ask for it (rule 37)."""
    return msgspec.json.encode(document(msgspec.json.decode(descriptor, type=Descriptor)))


async def docs(service: Service, request: Request) -> Answer:
    """The document as a page without scripts."""
    title = escape(f"Stage {service.descriptor.name}")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:16px/1.5 system-ui;max-width:50rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.1rem 1rem .1rem 0;vertical-align:top}h2{font-size:1.1rem}</style>"
        f"<h1>{title}</h1><p>The machine-readable form is <a href=openapi.json>openapi.json</a>."
        f"</p>{''.join(_sections())}</html>"
    )
    return Answer(headers=(HTML,), body=page.encode())


def _sections() -> Iterable[str]:
    for (method, template), operation in OPERATIONS.items():
        descriptions = {
            **{status: description for status, (description, _) in operation.answers.items()},
            **operation.problems,
        }
        rows = "".join(
            f"<tr><td>{status}</td><td>{escape(description)}</td></tr>"
            for status, description in sorted(descriptions.items())
        )
        yield (
            f"<h2><code>{method} {escape(template)}</code></h2>"
            f"<p>{escape(operation.summary)}</p><table>{rows}</table>"
        )
