"""The OpenAPI document is the protocol: all routes, and the bodies that are really sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from stage import Stage
from stage.demo.payment import payment
from stage.inbound.console_paths import is_console
from stage.inbound.openapi import document
from stage.inbound.operations import OPERATIONS
from stage.inbound.routes import ROUTES
from stage.wire import schema
from stage.wire.descriptor import Descriptor
from stage.wire.envelope import Envelope
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType, WireError
from stage.wire.replies import (
    REPLIES,
    CompensateRequest,
    Executed,
    decode_executed,
    kind_of_reply,
)
from stage.wire.views import SagaPage, SagaView


def described(stage: Stage[Any, Any]) -> dict[str, Any]:
    return document(
        Descriptor(
            name=stage.name,
            accepts=stage.accepts.schema(),
            adds={} if stage.adds is None else stage.adds.schema(),
            compensation_window_seconds=1.0,
        )
    )


@pytest.mark.parametrize("spec", [document(), described(payment)], ids=["any", "payment"])
def test_the_document_is_valid(spec: dict[str, Any]) -> None:
    """As openapi-spec-validator judges it, as it would be served."""
    OpenAPIV31SpecValidator(msgspec.json.decode(msgspec.json.encode(spec))).validate()


def test_every_route_is_described_and_no_other() -> None:
    served = {
        (route.method, route.template): route.name
        for route in ROUTES
        if not is_console(route.template)  # pages for people, which show what the API answers
    }
    assert served == {key: operation.id for key, operation in OPERATIONS.items()}


def test_operations_have_names_of_their_own() -> None:
    names = [operation.id for operation in OPERATIONS.values()]
    assert sorted(set(names)) == sorted(names)


def test_saga_and_page_have_their_fields() -> None:
    schemas = document()["components"]["schemas"]
    assert set(SagaView.__struct_fields__) == set(schemas["Saga"]["properties"])
    assert set(SagaPage.__struct_fields__) == set(schemas["Page"]["properties"])
    items = schemas["Page"]["properties"]["sagas"]["items"]
    assert {"$ref": "#/components/schemas/Saga"} == items


@pytest.mark.parametrize(
    "kind,known",
    [
        (Envelope, schema.ENVELOPE_SCHEMA),
        (Problem, schema.PROBLEM_SCHEMA),
        (CompensateRequest, schema.COMPENSATE_REQUEST_SCHEMA),
        (Executed, schema.EXECUTED_SCHEMA),
        (Executed, document()["components"]["schemas"]["Executed"]),
    ],
)
def test_a_schema_narrower_than_a_struct_has_its_members(
    kind: type[msgspec.Struct], known: dict[str, Any]
) -> None:
    """These hold patterns and bounds that the decoders check, so they are written beside them."""
    assert set(kind.__struct_fields__) == set(known["properties"])


def test_data_is_what_the_stage_accepts() -> None:
    schemas = described(payment)["components"]["schemas"]
    reference = {"$ref": "#/components/schemas/Data"}
    assert reference == schemas["Envelope"]["properties"]["data"]
    assert set(payment.accepts.kind.__struct_fields__) <= set(schemas["Data"]["properties"])
    added = schemas["Executed"]["properties"]["data"]["properties"]
    assert {"$ref": "#/components/schemas/Adds"} == added["payment"]


SENT = {
    "downstream_execute": ("post", "POST /sagas"),
    "downstream_compensate": ("post", "POST /sagas/{saga_id}/compensate"),
    "downstream_query": ("get", "GET /sagas/{saga_id}"),
    "downstream_shared": ("get", "GET /sagas"),
    "upstream_compensate": ("post", "POST /sagas/{saga_id}/compensate"),
    "upstream_shared": ("get", "GET /sagas"),
}
"""The requests of a stage to its neighbours."""


def test_each_request_to_a_neighbour_is_a_webhook() -> None:
    """No callback: its address is configured, and follows from no request to the stage."""
    described = document()

    assert "callbacks" not in described["paths"]["/sagas"]["post"]
    found = {
        name: (method, operation["description"].split("`")[1])
        for name, item in described["webhooks"].items()
        for method, operation in item.items()
    }
    assert SENT == found


@pytest.mark.parametrize(
    "body",
    [
        {"outcome": "executed"},
        {"saga_id": "s-1", "outcome": "executed", "data": {"shipping": {}}},
        {"saga_id": "s-1", "outcome": "executed", "data": {}, "note": "a member more"},
        {"saga_id": "s-1", "data": {}},
        {"outcome": "done"},
    ],
)
def test_a_yes_of_a_neighbour_is_described_as_it_is_read(body: dict[str, Any]) -> None:
    """A yes that the document allows and a stage does not understand would be a doubt."""
    found = referred(document(), "downstream_execute", 200)
    try:
        decode_executed(msgspec.json.encode(body), "s-1")
        understood = True
    except WireError:
        understood = False

    assert understood == Draft202012Validator(found).is_valid(body)


@pytest.mark.parametrize("status, outcome", sorted(REPLIES))
def test_the_least_that_a_neighbour_says_is_described(status: int, outcome: Outcome) -> None:
    """A code that is believed with its outcome is there, and the outcome is enough."""
    found = referred(document(), "downstream_execute", status)

    assert Draft202012Validator(found).is_valid({"outcome": outcome.value})
    assert kind_of_reply(status, msgspec.json.encode({"outcome": outcome}), "s-1")


def test_the_types_of_problems_are_named() -> None:
    """In words: an enum would break the clients that were made of it with each new one."""
    named = document()["components"]["schemas"]["Problem"]["properties"]["type"]["description"]

    assert all(kind.value in named for kind in ProblemType)


def referred(spec: dict[str, Any], name: str, status: int) -> dict[str, Any]:
    """The schema of an answer to what a stage sends."""
    [operation] = spec["webhooks"][name].values()
    [content] = operation["responses"][str(status)]["content"].values()
    found: dict[str, Any] = spec["components"]["schemas"][content["schema"]["$ref"].split("/")[-1]]
    return found
