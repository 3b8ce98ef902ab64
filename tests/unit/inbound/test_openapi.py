"""The OpenAPI document is the protocol: all routes, and the bodies that are really sent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
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
from stage.wire.problem import Problem
from stage.wire.replies import CompensateRequest, Executed
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


def test_an_endpoint_of_a_neighbour_is_a_callback() -> None:
    callbacks = document()["paths"]["/sagas"]["post"]["callbacks"]
    assert {"downstream_execute", "downstream_compensate", "upstream_compensate"} == set(callbacks)
