"""The world around a stage as its author describes it, in a module of their own.

The module may hold three names, each of them optional:

    apis    = {"psp": Psp}          # a model by name of the external API (`to=` of the calls)
    payload = function(random)      # the data of one saga
    stands  = "SELECT saga_id ..."  # SQL: the sagas of which something stands in the tables

docs/simulate.md says how each is written.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.core.errors import ConfigurationError
from stage.simulation.api import ApiModel
from stage.simulation.world import Scenario
from stage.wire.problem import WireError

NUMBER_MAX = 1_000
ITEMS_MAX = 2
DEPTH_MAX = 8
TRIED = 20
"""Payloads that are made up to see whether the stage accepts them."""

Payload = Callable[[Random], Mapping[str, Any]]


def scenario_of(
    stage: StageDeclaration[Any, Any], module: object | None, *, sagas: int
) -> Scenario:
    """The scenario to simulate for a stage. Raises ConfigurationError with the fix."""
    given: Mapping[str, object] = getattr(module, "apis", {})
    models: dict[str, type[ApiModel]] = {}
    known = {step.rules.peer for step in stage.steps if step.rules.peer}
    for name, model in given.items():
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            where = getattr(module, "__file__", "the model")
            raise ConfigurationError(
                f"{where} has an API {name!r}, which stage {stage.name} never calls;"
                f" it calls: {there}"
            )
        if not (isinstance(model, type) and issubclass(model, ApiModel)):
            raise ConfigurationError(
                f"the model of {name!r} must be a class derived from stage.simulation.ApiModel"
            )
        models[name] = model
    payload: Payload = getattr(module, "payload", None) or payload_of(stage)
    _try(stage, payload)
    return Scenario(
        sagas=sagas,
        stage=stage,
        models=models,
        payload=payload,
        stands=getattr(module, "stands", ""),
    )


def payload_of(stage: StageDeclaration[Any, Any]) -> Payload:
    """Payloads made up from the JSON Schema of what the stage accepts."""
    schema = stage.accepts.schema()
    definitions = {**schema.get("$defs", {}), **schema.get("definitions", {})}

    def payload(random: Random) -> Mapping[str, Any]:
        made = _value(schema, definitions, random, DEPTH_MAX)
        return made if isinstance(made, dict) else {}

    return payload


def _try(stage: StageDeclaration[Any, Any], payload: Payload) -> None:
    """A payload that is refused at the door would leave nothing to simulate."""
    random = Random(0)
    for _ in range(TRIED):
        data = payload(random)
        try:
            stage.accepts.from_data(msgspec.json.decode(msgspec.json.encode(data)))
        except WireError as error:
            raise ConfigurationError(
                f"stage {stage.name} does not accept a payload made up for it ({error}):"
                " write `def payload(random)` in a model and name it with --model"
            ) from error


def _value(schema: Mapping[str, Any], named: Mapping[str, Any], random: Random, depth: int) -> Any:
    """A value that fits the schema, as far as types, bounds and choices go."""
    if "$ref" in schema:
        return _value(named[schema["$ref"].rpartition("/")[2]], named, random, depth)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return random.choice(schema["enum"])
    for word in ("anyOf", "oneOf"):
        if word in schema:
            choices = [one for one in schema[word] if one.get("type") != "null"]
            return _value(random.choice(choices), named, random, depth) if choices else None
    match schema.get("type"):
        case "integer":
            return random.randint(*_bounds(schema))
        case "number":
            least, most = _bounds(schema)
            return round(random.uniform(least, most), 2)
        case "boolean":
            return random.random() < 0.5
        case "string":
            length = max(schema.get("minLength", 1), min(8, schema.get("maxLength", 8)))
            return "".join(random.choices(string.ascii_lowercase, k=length))
        case "array" if depth > 0:
            items = schema.get("items") or {}
            least = schema.get("minItems", 0)
            count = random.randint(least, max(least, ITEMS_MAX))
            return [_value(items, named, random, depth - 1) for _ in range(count)]
        case "object" if depth > 0:
            members = schema.get("properties", {})
            required = schema.get("required", list(members))
            return {name: _value(members[name], named, random, depth - 1) for name in required}
        case _:
            return None


def _bounds(schema: Mapping[str, Any]) -> tuple[int, int]:
    least = int(schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1))
    most = int(schema.get("maximum", schema.get("exclusiveMaximum", NUMBER_MAX + 1) - 1))
    return least, max(least, most)
